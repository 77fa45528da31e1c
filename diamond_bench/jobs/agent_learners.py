"""What learns in an agent: three networks, each updated from the replay; the policy in imagination."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diamond_bench.agent import Agent, AgentDescription, build_agent
from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import RewardEndSegments, Segments, sample_reward_end_segments, sample_segments, tensors_of, to_float
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.envs.games import num_actions
from diamond_bench.imagination.env import GeneratorDraws, ImaginationEnv, ReservedSteps
from diamond_bench.imagination.starts import ReplayStarts
from diamond_bench.jobs.execution import Execution, apply_to_agent, resolve_for
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.graphs import Graphed, Outputs
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.training.actor_critic import actor_critic_loss
from diamond_bench.training.learner import Learner
from diamond_bench.training.reward_end import reward_end_loss
from diamond_bench.training.rollout import Carry, collect_rollout, sampled, start

Logged = dict[str, dict[str, Tensor]]
"""Scalars of an update by group."""


def describe(config: TrainAgent) -> AgentDescription:
    """The agent that a training builds."""
    return AgentDescription(
        objective=config.objective,
        conditioning=config.conditioning,
        network=config.network,
        reward_end=config.reward_end,
        actor_critic=config.actor_critic,
        num_actions=num_actions(config.game),
        frame_size=config.env.frame_size,
        model_free=config.agent.model_free,
        game=config.game,
    )


class Learners:
    """An agent and its learners; one generator feeds every draw of theirs."""

    def __init__(
        self, config: TrainAgent, device: torch.device, replay: Replay, generator: torch.Generator, execution: Execution | None = None
    ) -> None:
        """`execution`: by default what config.execution comes to."""
        self.config, self.replay, self.generator = config, replay, generator
        self.execution = resolve_for(config, device) if execution is None else execution
        agent = build_agent(describe(config), config.execution.precision, device)
        self.agent: Agent = apply_to_agent(self.execution, agent, config)
        self._denoiser: Denoiser | None = None
        fused, recorded = self.execution.fused, self.execution.records_updates
        self._learners = {"actor_critic": Learner(self.agent.actor_critic, config.actor_critic, fused, recorded)}
        self._imagination: ImaginationEnv | None = None
        self._carry: Carry | None = None
        self._draw = sampled(generator)
        if self.agent.world_model is not None and self.agent.reward_end is not None:
            denoiser = self.agent.world_model.denoiser
            assert isinstance(denoiser, Denoiser)
            self._denoiser = denoiser
            self._learners["denoiser"] = Learner(denoiser, config.training, fused, recorded)
            self._learners["reward_end"] = Learner(self.agent.reward_end, config.reward_end, fused, recorded)
            self._imagination = ImaginationEnv(
                self.agent.world_model,
                self.agent.reward_end,
                ReplayStarts(replay, max(config.conditioning.num_frames, config.actor_critic.start_frames), generator),
                GeneratorDraws(generator),
                config.sampler,
                config.actor_critic.batch_size,
                num_actions(config.game),
                config.env.frame_size,
                config.actor_critic.horizon,
                config.actor_critic.preload,
                config.actor_critic.discard_left_overs,
                device,
                recorded=None if recorded else self.recorded_step(generator),  # a recorded update holds its steps
            )

    @property
    def compilable(self) -> list[Compilable]:
        """The networks of which a part may be compiled."""
        found = (self.agent.actor_critic, self._denoiser, self.agent.reward_end)
        return [network for network in found if network is not None]

    def recorded_step(self, generator: torch.Generator) -> Callable[[Callable[..., Outputs]], Graphed] | None:
        """What makes an imagined step that draws from `generator` a CUDA graph; none where none is asked for."""
        return None if self.execution.cuda_graphs == "none" else lambda step: Graphed(step, [generator])

    def prepare(self, num_updates: int) -> None:
        """Loads the start segments of so many updates of the policy, which they else do themselves."""
        assert self._imagination is not None
        self._imagination.prepare(num_updates * self.config.actor_critic.steps_per_update)

    def update(self, name: str) -> Logged:
        """One update of the denoiser, reward_end or actor_critic."""
        return {"denoiser": self._update_denoiser, "reward_end": self._update_reward_end, "actor_critic": self._update_policy}[name]()

    def learn_from(self, loss: Tensor) -> Tensor:
        """An update of the policy from a loss of real play (model-free)."""
        return self._learners["actor_critic"].update(loss)

    def counts(self) -> dict[str, int]:
        """Updates made."""
        return {name: learner.updates for name, learner in self._learners.items()}

    def _update_denoiser(self) -> Logged:
        training, denoiser = self.config.training, self._denoiser
        assert denoiser is not None
        length = self.config.conditioning.num_frames + 1 + training.num_autoregressive_steps
        segments = sample_segments(self.replay.episodes, training.batch_size, length, self.generator, "recency")

        def loss_of(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            drawn = Segments(*batch)
            loss, _ = denoiser.training_loss(to_float(drawn), drawn.actions, drawn.mask, self.generator)
            return loss, {"loss": loss.detach()}

        return {"denoiser": self._learners["denoiser"].learn(loss_of, tensors_of(segments), [self.generator])}

    def _update_reward_end(self) -> Logged:
        settings, model = self.config.reward_end, self.agent.reward_end
        assert model is not None
        drawn = (self.replay.episodes, settings.batch_size, settings.segment_length, self.generator, settings.final_frames)

        def loss_of(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            loss, metrics = reward_end_loss(model, RewardEndSegments(*batch))
            return loss, {name: value for name, value in metrics.items() if value.ndim == 0}

        return {"reward_end": self._learners["reward_end"].learn(loss_of, tensors_of(sample_reward_end_segments(*drawn)))}

    def _update_policy(self) -> Logged:
        settings, env = self.config.actor_critic, self._imagination
        assert env is not None
        if self._carry is None:
            self._carry = start(self.agent.actor_critic, env)
        memory = env.reserve(settings.steps_per_update)

        def loss_of(h: Tensor, c: Tensor, *position: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            steps = ReservedSteps(env, position)
            all_rows = True if self.execution.records_updates else None
            rollout, carry = collect_rollout(
                self.agent.actor_critic, steps, Carry(steps.frames, (h, c)), settings.steps_per_update, self._draw, all_rows
            )
            loss, metrics = actor_critic_loss(rollout, settings)
            imagined = {"imagined/reward": rollout.rewards.mean(), "imagined/end": rollout.ends.float().mean()}
            after = (*carry.state, *steps.position)
            return loss, {**metrics, **imagined, **{f"after/{number}": tensor for number, tensor in enumerate(after)}}

        told = self._learners["actor_critic"].learn(loss_of, (*self._carry.state, *env.position), [self.generator], memory)
        h, c, *position = _taken(told, "after/").values()
        env.position = tuple(position)
        self._carry = Carry(ReservedSteps(env, env.position).frames, (h, c))
        imagined = _taken(told, "imagined/")
        return {"actor_critic": told, "imagined": imagined}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain values alone."""
        imagination = None
        if self._imagination is not None and self._carry is not None:
            carry = {"frames": self._carry.frames, "state": list(self._carry.state)}
            imagination = {"env": self._imagination.state_dict(), "carry": carry}
        return {"learners": {name: learner.state_dict() for name, learner in self._learners.items()}, "imagination": imagination}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, over the same replay."""
        for name, learner in self._learners.items():
            learner.load_state_dict(state["learners"][name])
        saved = state["imagination"]
        if saved is not None and self._imagination is not None:
            device = self.agent.actor_critic.actor.weight.device
            self._imagination.load_state_dict(saved["env"])
            h, c = (tensor.to(device) for tensor in saved["carry"]["state"])
            self._carry = Carry(saved["carry"]["frames"].to(device), (h, c))


def _taken(told: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What of it has this prefix, which is cut off; it is taken out of `told`."""
    return {name.removeprefix(prefix): told.pop(name) for name in list(told) if name.startswith(prefix)}
