"""Real play of an agent in training: into the replay, or with learning during play if the agent is model-free."""

from typing import Any, Protocol

import torch

from diamond_bench.data.replay import Replay
from diamond_bench.envs.games import vector_env
from diamond_bench.envs.play import Collected, Collector
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.jobs.agent_concurrent import ConcurrentPlay
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.training.actor_critic import actor_critic_loss
from diamond_bench.training.means import Means
from diamond_bench.training.rollout import Carry, RealEnv, collect_rollout, sampled, start


class Play(Protocol):
    """Real steps of one training environment, in which a lost life ends an episode."""

    @property
    def real_steps(self) -> int:
        """Number of steps taken since the beginning."""
        ...

    def begin(self, num_steps: int) -> None:
        """Announces the number of steps of the next `collect` (0 if there is none). Concurrent play starts to play them now, with the
        present policy."""
        ...

    def collect(self, num_steps: int, means: Means) -> Collected:
        """Takes exactly `num_steps` more steps."""
        ...

    def close(self) -> None:
        """Ends the play. Nothing keeps running."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: emulator, memory, random states."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`, bit for bit."""
        ...


def play_for(config: TrainAgent, learners: Learners, replay: Replay, generator: torch.Generator, device: torch.device) -> Play:
    """The play that a training's config selects."""
    if config.agent.model_free:
        return ModelFreePlay(config, learners, generator, device)
    return (
        RealPlay(config, learners, replay) if config.agent.collection == "sequential" else ConcurrentPlay(config, learners, replay, device)
    )


class RealPlay:
    """Plays into the replay with the present policy, and with epsilon and temperature of the collection."""

    def __init__(self, config: TrainAgent, learners: Learners, replay: Replay) -> None:
        env, player = vector_env(config.game, config.env, 1), PolicyPlayer(learners.agent.policy)
        self._collector = Collector(env, player, replay, config.seed, config.agent.epsilon, config.agent.temperature)

    @property
    def real_steps(self) -> int:
        """See `Play.real_steps`."""
        return self._collector.real_steps

    def begin(self, num_steps: int) -> None:
        """See `Play.begin`. Does nothing, since `collect` plays."""

    def collect(self, num_steps: int, means: Means) -> Collected:
        """See `Play.collect`."""
        return self._collector.collect(num_steps)

    def close(self) -> None:
        """See `Play.close`. Does nothing."""

    def state_dict(self) -> dict[str, Any]:
        """See `Play.state_dict`."""
        return self._collector.save()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Play.load_state_dict`."""
        self._collector.restore(state)


class ModelFreePlay:
    """Plays rollouts of actor_critic.steps_per_update steps and updates the policy after each. There is no replay."""

    def __init__(self, config: TrainAgent, learners: Learners, generator: torch.Generator, device: torch.device) -> None:
        self._settings, self._learners, self._draw = config.actor_critic, learners, sampled(generator)
        self._env = RealEnv(vector_env(config.game, config.env, 1), device)
        self._carry = start(learners.agent.actor_critic, self._env, seed=config.seed)

    @property
    def real_steps(self) -> int:
        """See `Play.real_steps`."""
        return self._env.real_steps

    def begin(self, num_steps: int) -> None:
        """See `Play.begin`. Does nothing, since the policy learns during play."""

    def collect(self, num_steps: int, means: Means) -> Collected:
        """See `Play.collect`. The last rollout may be shorter."""
        signs, episodes = torch.zeros(3, dtype=torch.int64), 0
        for done in range(0, num_steps, self._settings.steps_per_update):
            steps, policy = min(self._settings.steps_per_update, num_steps - done), self._learners.agent.actor_critic
            rollout, self._carry = collect_rollout(policy, self._env, self._carry, steps, self._draw)
            loss, metrics = actor_critic_loss(rollout, self._settings)
            means.add("actor_critic", **metrics, grad_norm=self._learners.learn_from(loss))
            signs += torch.bincount((rollout.rewards.sign().long() + 1).flatten().cpu(), minlength=3)
            episodes += int((rollout.ends | rollout.truncations).sum())
        negative, zero, positive = signs.tolist()
        return Collected(num_steps, (negative, zero, positive), episodes, self._env.finished_games())

    def close(self) -> None:
        """See `Play.close`. Does nothing."""

    def state_dict(self) -> dict[str, Any]:
        """See `Play.state_dict`."""
        return {"env": self._env.save(), "carry": {"frames": self._carry.frames, "state": list(self._carry.state)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Play.load_state_dict`."""
        self._env.restore(state["env"])
        device = self._carry.frames.device
        h, c = (tensor.to(device) for tensor in state["carry"]["state"])
        self._carry = Carry(state["carry"]["frames"].to(device), (h, c))
