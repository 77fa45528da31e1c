"""The learners of an agent: its networks, updated from the replay, and the policy, updated in imagination."""

from typing import Any

import torch
from torch import Tensor

from diamond_bench.agent import Agent, AgentDescription, build_agent
from diamond_bench.config import ActorCriticConfig
from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import (
    RewardEndSegments,
    Segments,
    sample_reward_end_segments,
    sample_segments,
    sample_with_finals,
    tensors_of,
)
from diamond_bench.envs.games import num_actions, spec
from diamond_bench.imagination.env import GeneratorDraws, ImaginationEnv, ImaginationSettings, ReservedSteps, record_steps
from diamond_bench.imagination.starts import ReplayStarts
from diamond_bench.jobs.execution import Execution, apply_to_agent, resolve_for
from diamond_bench.models.actor_critic import ViewingPolicy
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.graphs import Outputs
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.training.actor_critic import actor_critic_loss
from diamond_bench.training.learner import Learner
from diamond_bench.training.reward_end import reward_end_loss
from diamond_bench.training.rollout import Carry, collect_rollout, sampled, start
from diamond_bench.worlds.contract import Trainable, WorldModel
from diamond_bench.worlds.families import open_world
from diamond_bench.worlds.recordings import RecordedReplay

Logged = dict[str, dict[str, Tensor]]
"""Scalars of an update, by group."""


def describe(config: TrainAgent) -> AgentDescription:
    """The description of the agent that a training builds."""
    return AgentDescription(
        objective=config.objective,
        conditioning=config.conditioning,
        network=config.network,
        reward_end=config.reward_end,
        actor_critic=config.actor_critic,
        num_actions=num_actions(config.game),
        frame_size=config.env.frame_size,
        model_free=not config.trains_world_model,  # nothing is stored for a family that is not trained
        game=config.game,
        family=config.family if config.trains_world_model else None,
    )


def imagination_settings(config: ActorCriticConfig) -> ImaginationSettings:
    """How the policy's games are imagined."""
    return ImaginationSettings(config.batch_size, config.horizon, config.preload, config.discard_left_overs)


class Learners:
    """An agent and its learners. All their draws come from one generator."""

    def __init__(
        self, config: TrainAgent, device: torch.device, replay: Replay, generator: torch.Generator, execution: Execution | None = None
    ) -> None:
        """`execution`: by default the one that config.execution resolves to."""
        self.config, self.replay, self.generator = config, replay, generator
        self.execution = resolve_for(config, device) if execution is None else execution
        asked, precision = config.execution.precision, self.execution.precision
        assert asked in ("auto", precision), f"{precision}, not {asked}"
        agent = build_agent(describe(config), precision, device)
        self.agent: Agent = apply_to_agent(self.execution, agent, config)
        self.world: WorldModel | None = None
        """The environment of the policy's learning, with its sampler bound. None if the agent is model-free."""
        self._trainables: tuple[Trainable, ...] = ()
        fused, recorded = self.execution.fused, self.execution.records_updates
        self._learners = {"actor_critic": Learner(self.agent.actor_critic, config.actor_critic, fused, recorded)}
        self._imagination: ImaginationEnv | None = None
        self._carry: Carry | None = None
        self._draw = sampled(generator)
        num_frames = max(config.conditioning.num_frames, config.actor_critic.start_frames)
        if config.family is not None and not config.trains_world_model:
            played = RecordedReplay(config.game, config.env, config.seed, replay)
            self.world = open_world(config.family, spec(config.game, config.env), device, played)
        if self.agent.world_model is not None:
            trained = self.agent.world_model.bound(config.sampler)
            num_frames = max(trained.context, config.actor_critic.start_frames)
            self.world, self._trainables = trained, tuple(trained.trainables(config.training))
            for trainable in self._trainables:
                settings = trainable.optimizer or config.training
                self._learners[trainable.name] = Learner(trainable.network, settings, fused, recorded, apart=trainable.apart)
        if self.agent.reward_end is not None:
            self._learners["reward_end"] = Learner(self.agent.reward_end, config.reward_end, fused, recorded)
        if self.world is not None:
            self._imagination = ImaginationEnv(
                self.world,
                self.agent.reward_end,
                ReplayStarts(replay, num_frames, generator),
                GeneratorDraws(generator),
                imagination_settings(config.actor_critic),
                policy.view if isinstance(policy := self.agent.policy, ViewingPolicy) else None,
            )
            if self.execution.cuda_graphs == "imagination":  # a recorded update contains its steps
                record_steps(self._imagination, [generator])

    @property
    def compilable(self) -> list[Compilable]:
        """The networks that have a part that may be compiled."""
        reward_end = () if self.agent.reward_end is None else (self.agent.reward_end,)
        world_model = () if self.agent.world_model is None else self.agent.world_model.compilable
        return [self.agent.actor_critic, *world_model, *reward_end]

    def prepare(self, num_updates: int) -> None:
        """Loads the start segments of `num_updates` updates of the policy. Otherwise the updates load them."""
        assert self._imagination is not None
        self._imagination.prepare(num_updates * self.config.actor_critic.steps_per_update)

    def update(self, name: str) -> Logged:
        """One update of the world model ("denoiser"), reward_end or actor_critic."""
        return {"denoiser": self._update_world_model, "reward_end": self._update_reward_end, "actor_critic": self._update_policy}[name]()

    def learn_from(self, loss: Tensor) -> Tensor:
        """An update of the policy from a loss of real play (model-free)."""
        return self._learners["actor_critic"].update(loss)

    @property
    def world_updates(self) -> int:
        """Updates of the world model so far. Its networks are updated in turn."""
        return self._learners[self._trainables[0].name].updates if self._trainables else 0

    def counts(self) -> dict[str, int]:
        """Updates made."""
        return {name: learner.updates for name, learner in self._learners.items()}

    def _update_world_model(self) -> Logged:
        return {trainable.name: self._update(trainable) for trainable in self._trainables}

    def _update(self, trainable: Trainable) -> dict[str, Tensor]:
        batch_size, length = trainable.batch_size or self.config.training.batch_size, trainable.segment_length
        read = sample_with_finals if trainable.final_frames else sample_segments
        segments = read(self.replay.episodes, batch_size, length, self.generator, "recency")

        def loss_of(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            loss, metrics = trainable.loss(Segments(*batch), self.generator)
            return loss, trainable.found(loss, metrics)

        return self._learners[trainable.name].learn(loss_of, tensors_of(segments), [self.generator])

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
        env.reserve(settings.steps_per_update)

        def loss_of(h: Tensor, c: Tensor, *position: Tensor) -> tuple[Tensor, dict[str, Tensor], Outputs]:
            steps = ReservedSteps(env, position)
            all_rows = True if self.execution.records_updates else None
            rollout, carry = collect_rollout(
                self.agent.actor_critic, steps, Carry(steps.frames, (h, c)), settings.steps_per_update, self._draw, all_rows
            )
            loss, metrics = actor_critic_loss(rollout, settings)
            imagined = {"imagined/reward": rollout.rewards.mean(), "imagined/end": rollout.ends.float().mean()}
            return loss, {**metrics, **imagined}, (*carry.state, *steps.position)

        learner, before = self._learners["actor_critic"], (*self._carry.state, *env.position)
        found, (h, c, *position) = learner.carry(loss_of, before, [self.generator], held=lambda: env.held)
        env.position = tuple(position)
        self._carry = Carry(ReservedSteps(env, env.position).frames, (h, c))
        imagined = {name.removeprefix("imagined/"): found.pop(name) for name in list(found) if name.startswith("imagined/")}
        return {"actor_critic": found, "imagined": imagined}

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, as tensors and plain values."""
        imagination = None
        if self._imagination is not None and self._carry is not None:
            carry = {"frames": self._carry.frames, "state": list(self._carry.state)}
            imagination = {"env": self._imagination.state_dict(), "carry": carry}
        return {"learners": {name: learner.state_dict() for name, learner in self._learners.items()}, "imagination": imagination}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`, over the same replay."""
        for name, learner in self._learners.items():
            learner.load_state_dict(state["learners"][name])
        saved = state["imagination"]
        if saved is not None and self._imagination is not None:
            device = self.agent.actor_critic.actor.weight.device
            self._imagination.load_state_dict(saved["env"])
            h, c = (tensor.to(device) for tensor in saved["carry"]["state"])
            self._carry = Carry(saved["carry"]["frames"].to(device), (h, c))
