"""What an agent costs, from its config alone: arithmetic, game steps and disk. No torch."""

from dataclasses import dataclass

from diamond_bench.diffusion.schedules import nfe
from diamond_bench.models.flops import (
    actor_critic_flops,
    actor_critic_parameters,
    denoiser_flops,
    denoiser_parameters,
    reward_end_flops,
    reward_end_parameters,
)
from diamond_bench.store.kinds import TrainAgent

_MOST_ACTIONS = 18
_STORED_FRAME = 500 / 64**2
"""Bytes a pixel of the replay on disk."""
_ADAM = 3
"""Weights and two moments."""


@dataclass(frozen=True)
class Updates:
    """Updates of each network over a whole run."""

    denoiser: int
    reward_end: int
    actor_critic: int


def num_epochs(config: TrainAgent, collected_first: int | None = None) -> int:
    """Epochs of a run: the first, one for each later block of steps, and the last ones without collection.

    `collected_first`: real steps of the initial collection, which takes at least agent.initial_steps.
    """
    agent = config.agent
    if agent.model_free:
        return -(-agent.budget // agent.steps_per_epoch)
    first = agent.initial_steps if collected_first is None else collected_first
    return 1 + -(-max(0, agent.budget - first) // agent.steps_per_epoch) + agent.final_epochs


def updates(config: TrainAgent) -> Updates:
    """Updates of each network."""
    agent, later = config.agent, num_epochs(config) - 1
    if agent.model_free:  # the last rollout of an epoch may be a shorter one
        whole, rest = divmod(agent.budget, agent.steps_per_epoch)
        rollout = config.actor_critic.steps_per_update
        return Updates(0, 0, whole * -(-agent.steps_per_epoch // rollout) + -(-rest // rollout))
    return Updates(
        agent.first_denoiser_updates + later * agent.denoiser_updates,
        agent.first_reward_end_updates + later * agent.reward_end_updates,
        agent.first_actor_critic_updates + later * agent.actor_critic_updates,
    )


def agent_work(config: TrainAgent, made: Updates | None = None) -> float:
    """FLOP of the updates (those `made`, or of a whole run) and of the imagination they take; a backward pass counts as two forward."""
    size, policy = config.env.frame_size, actor_critic_flops(config.actor_critic, _MOST_ACTIONS, config.env.frame_size)
    count, trained = made or updates(config), config.actor_critic
    steps = trained.steps_per_update * (1 if config.agent.model_free else trained.batch_size)
    if config.agent.model_free:
        return 3.0 * policy * steps * count.actor_critic
    denoise = denoiser_flops(config.network, config.conditioning, size)
    judge = reward_end_flops(config.reward_end, size)
    terms = config.training.num_autoregressive_steps + 1
    return (
        3.0 * denoise * terms * config.training.batch_size * count.denoiser
        + 3.0 * judge * (config.reward_end.segment_length - 1) * config.reward_end.batch_size * count.reward_end
        + (nfe(config.sampler) * denoise + judge + 3.0 * policy) * steps * count.actor_critic
    )


def agent_bytes(config: TrainAgent) -> float:
    """Disk of a finished run: its agent, two resumable states of networks, optimisers and start segments, and the replay."""
    size = config.env.frame_size
    weights, ring = actor_critic_parameters(config.actor_critic, _MOST_ACTIONS, size), 0.0
    if not config.agent.model_free:
        weights += denoiser_parameters(config.network, config.conditioning, _MOST_ACTIONS)
        weights += reward_end_parameters(config.reward_end, _MOST_ACTIONS, size)
        ring = 2 * 4.0 * config.actor_critic.preload * config.actor_critic.batch_size * config.reward_end.lstm_dim
    return 4.0 * weights * (1 + 2 * _ADAM) + 2 * ring + config.agent.budget * size**2 * _STORED_FRAME
