"""Test games of an agent in training: its returns, and the quality of its models."""

from collections.abc import Callable

import numpy as np
import torch

from diamond_bench.data.replay import Replay
from diamond_bench.envs.games import make_env
from diamond_bench.envs.play import play_test_games
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.training.agent_quality import drift_quality, reward_end_quality
from diamond_bench.training.loop import StoppedWithin

_SEED = 1 << 20
"""First seed of test games. It lies above those of collection, so that no test game is a game of the training."""


def test_games(
    config: TrainAgent, learners: Learners, epoch: int, should_stop: Callable[[], bool], device: torch.device
) -> dict[str, float]:
    """Plays agent.test_episodes games after an epoch (from 0): mean return and length, and quality of reward/end and world model.

    They select nothing, and their steps do not count as real steps. Undefined values have no entry. Raises StoppedWithin.
    """

    def watch(*step: object) -> None:
        if should_stop():
            raise StoppedWithin

    seen = Replay(1000 * config.agent.test_episodes, config.env.frame_size, "cpu", config.agent.test_episodes)
    games = play_test_games(
        lambda: make_env(config.game, config.env),
        PolicyPlayer(learners.agent.policy),
        config.agent.test_episodes,
        config.agent.test_episodes,
        seed=_SEED + config.seed * 100_003 + epoch,
        max_steps=config.agent.test_max_steps,
        watch=watch,
        sink=seen,
    )
    found = {"return": float(np.mean([game.score for game in games])), "length": float(np.mean([game.length for game in games]))}
    settings = config.reward_end
    if learners.agent.reward_end is not None:
        found |= reward_end_quality(learners.agent.reward_end, seen.episodes, settings.segment_length, settings.batch_size)
    if learners.world is not None and config.trains_world_model:
        horizon = max(1, settings.segment_length - learners.world.context)  # the same for every imagination horizon
        drift = drift_quality(learners.world, seen.episodes, horizon, device, seed=config.seed)
        found |= {} if drift is None else {"drift": drift}
    return found
