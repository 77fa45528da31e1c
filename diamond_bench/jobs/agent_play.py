"""How an agent plays the real game while it trains: into the replay, or, model-free, learning as it plays."""

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
    """Real steps of one training environment, with a lost life as an episode's end."""

    @property
    def real_steps(self) -> int:
        """Taken since the beginning."""
        ...

    def begin(self, num_steps: int) -> None:
        """The next `collect` must ask for so many (0: none will come): what plays beside training plays them from now on, with the policy
        as it stands."""
        ...

    def collect(self, num_steps: int, means: Means) -> Collected:
        """Take exactly `num_steps` more."""
        ...

    def close(self) -> None:
        """No more will be asked; leaves nothing running."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: emulator, memory, random states."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, bit for bit."""
        ...


def play_for(config: TrainAgent, learners: Learners, replay: Replay, generator: torch.Generator, device: torch.device) -> Play:
    """The play that a training asks for."""
    if config.agent.model_free:
        return ModelFreePlay(config, learners, generator, device)
    return (
        RealPlay(config, learners, replay) if config.agent.collection == "sequential" else ConcurrentPlay(config, learners, replay, device)
    )


class RealPlay:
    """Plays into the replay with the policy as it stands: epsilon and temperature are the collection's."""

    def __init__(self, config: TrainAgent, learners: Learners, replay: Replay) -> None:
        env, player = vector_env(config.game, config.env, 1), PolicyPlayer(learners.agent.actor_critic)
        self._collector = Collector(env, player, replay, config.seed, config.agent.epsilon, config.agent.temperature)

    @property
    def real_steps(self) -> int:
        """As `Play.real_steps`."""
        return self._collector.real_steps

    def begin(self, num_steps: int) -> None:
        """As `Play.begin`: nothing, it plays in turn."""

    def collect(self, num_steps: int, means: Means) -> Collected:
        """As `Play.collect`."""
        return self._collector.collect(num_steps)

    def close(self) -> None:
        """As `Play.close`: nothing."""

    def state_dict(self) -> dict[str, Any]:
        """As `Play.state_dict`."""
        return self._collector.save()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Play.load_state_dict`."""
        self._collector.restore(state)


class ModelFreePlay:
    """Plays rollouts of actor_critic.steps_per_update steps and updates the policy from each; there is no replay."""

    def __init__(self, config: TrainAgent, learners: Learners, generator: torch.Generator, device: torch.device) -> None:
        self._settings, self._learners, self._draw = config.actor_critic, learners, sampled(generator)
        self._env = RealEnv(vector_env(config.game, config.env, 1), device)
        self._carry = start(learners.agent.actor_critic, self._env, seed=config.seed)

    @property
    def real_steps(self) -> int:
        """As `Play.real_steps`."""
        return self._env.real_steps

    def begin(self, num_steps: int) -> None:
        """As `Play.begin`: nothing, the policy learns while it plays."""

    def collect(self, num_steps: int, means: Means) -> Collected:
        """As `Play.collect`; the last rollout may be a shorter one."""
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
        """As `Play.close`: nothing."""

    def state_dict(self) -> dict[str, Any]:
        """As `Play.state_dict`."""
        return {"env": self._env.save(), "carry": {"frames": self._carry.frames, "state": list(self._carry.state)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Play.load_state_dict`."""
        self._env.restore(state["env"])
        device = self._carry.frames.device
        h, c = (tensor.to(device) for tensor in state["carry"]["state"])
        self._carry = Carry(state["carry"]["frames"].to(device), (h, c))
