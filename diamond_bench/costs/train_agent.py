"""The cost of `train_agent`: updates, their imagination, and disk."""

from dataclasses import dataclass

from diamond_bench.config import world_family
from diamond_bench.costs import ADAM, MAX_ACTIONS, STORED_PIXEL_BYTES, frames_of
from diamond_bench.costs.world_model import (
    arithmetic,
    frame_flops,
    parameters,
    reconstruction_flops,
    start_flops,
    state_bytes,
    update_flops,
)
from diamond_bench.models.actor_critic_cost import actor_critic_cost
from diamond_bench.models.reward_end_cost import reward_end_cost
from diamond_bench.store.cost import Arithmetic, Checkpoint, Inputs, JobCost
from diamond_bench.store.kinds import TrainAgent

_TRUE_STEPS_PER_SECOND = 2000.0
"""Steps of the true dynamics per second on a CPU core. Each row restores a state, plays a step and saves the state."""


@dataclass(frozen=True)
class Updates:
    """Number of updates of each network over a whole run."""

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
    """Number of updates of each network."""
    agent, later = config.agent, num_epochs(config) - 1
    if agent.model_free:  # the last rollout of an epoch may be shorter
        whole, rest = divmod(agent.budget, agent.steps_per_epoch)
        rollout = config.actor_critic.steps_per_update
        return Updates(0, 0, whole * -(-agent.steps_per_epoch // rollout) + -(-rest // rollout))
    return Updates(
        (agent.first_denoiser_updates + later * agent.denoiser_updates) * config.trains_world_model,
        (agent.first_reward_end_updates + later * agent.reward_end_updates) * config.trains_reward_end,
        agent.first_actor_critic_updates + later * agent.actor_critic_updates,
    )


def agent_work(config: TrainAgent, done: Updates | None = None) -> float:
    """FLOP of the updates (`done`, or those of a whole run) and of their imagination. A backward pass counts as two forward passes."""
    frames = frames_of(config)
    policy = actor_critic_cost(config.actor_critic, MAX_ACTIONS, frames).flops
    count, trained = done or updates(config), config.actor_critic
    steps = trained.steps_per_update * (1 if config.agent.model_free else trained.batch_size)
    if config.agent.model_free:
        return 3.0 * policy * steps * count.actor_critic
    world = config.family or config
    begun = start_flops(world, frames)  # of all rows at every step, which is the most that a step can cost
    if trained.observations == "reconstructions":
        shown = max(world_family(config.family).context(world), trained.start_frames)
        begun += shown * reconstruction_flops(world, frames)
    imagined = frame_flops(world, config.sampler, frames) + begun
    signals = reward_end_cost(config.reward_end, MAX_ACTIONS, frames).flops if config.trains_reward_end else 0.0
    learned = update_flops(config, frames) * count.denoiser if config.trains_world_model else 0.0
    return (
        learned
        + 3.0 * signals * (config.reward_end.segment_length - 1) * config.reward_end.batch_size * count.reward_end
        + (imagined + signals + 3.0 * policy) * steps * count.actor_critic
    )


def _disk(config: TrainAgent, inputs: Inputs) -> float:
    """A finished run: its agent, two checkpoints of networks, optimisers, start segments and imagined games, and the replay."""
    frames = frames_of(config)
    weights, ring = actor_critic_cost(config.actor_critic, MAX_ACTIONS, frames).parameters, 0.0
    games = 0 if config.agent.model_free else config.actor_critic.batch_size * state_bytes(config.family or config, frames)
    if config.trains_world_model:
        weights += parameters(config, frames)
    if config.trains_reward_end:
        weights += reward_end_cost(config.reward_end, MAX_ACTIONS, frames).parameters
        ring = 2 * 4.0 * config.actor_critic.preload * config.actor_critic.batch_size * config.reward_end.lstm_dim
    return 4.0 * weights * (1 + 2 * ADAM) + 2 * (ring + games) + config.agent.budget * frames.pixels * STORED_PIXEL_BYTES


def _arithmetic(config: TrainAgent, inputs: Inputs) -> Arithmetic:
    """The arithmetic of the world model. If no world model is trained, that of the policy, whose speed says nothing about other agents."""
    if config.family is None or config.trains_world_model:
        return arithmetic(config, config.execution)
    channels, execution = config.actor_critic.channels, config.execution
    return Arithmetic(f"the policy in {config.family.name}", sum(channels) / len(channels), execution.precision, execution.device)


def _fixed_seconds(config: TrainAgent, device: str) -> float:
    """Includes the time of true dynamics, which take no FLOP."""
    trained = config.actor_critic
    steps = trained.steps_per_update * trained.batch_size * updates(config).actor_critic * (not world_family(config.family).trained)
    return 12.0 + steps / _TRUE_STEPS_PER_SECOND


COST = JobCost(
    work=lambda config, inputs: agent_work(config),
    arithmetic=_arithmetic,
    fixed_seconds=_fixed_seconds,
    disk=_disk,
    checkpoint=lambda config: Checkpoint("agent.checkpoint_every", config.agent.checkpoint_every, num_epochs(config)),
)
