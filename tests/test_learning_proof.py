"""The proof that an agent learns in imagination (slow; `python -m pytest -m slow tests/test_learning_proof.py -s` prints its figures).

Fixed before it was run: the game (Follow), the settings below, five seeds, 300 test games a seed. Three arms: the agent trained in its
world model; the same, its imagined rewards shuffled among the games at every step, so that they say nothing of what was done; the
uniformly random policy. Learning is shown if the agent's 95% interval (t, over seeds) lies above those of the two others, and that of
the shuffled arm does not lie above random's.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from follow import GAME, SIZE, Follow
from scipy import stats
from torch import Tensor

from diamond_bench.agent import build_agent, load_agent
from diamond_bench.config import AgentConfig, ConditioningConfig, EnvConfig, ExecutionConfig, NetworkConfig, OdeSampler, TrainingConfig
from diamond_bench.config.agent import ActorCriticConfig, RewardEndConfig
from diamond_bench.envs import games
from diamond_bench.envs.play import play_test_games
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.imagination.env import GeneratorDraws
from diamond_bench.jobs import agent_learners, train_agent
from diamond_bench.jobs.context import JobContext
from diamond_bench.store.kinds import TrainAgent

SEEDS = (0, 1, 2, 3, 4)
GAMES = 300


def settings(seed: int) -> TrainAgent:
    return TrainAgent(
        game=GAME,
        seed=seed,
        env=EnvConfig(frame_size=SIZE),
        conditioning=ConditioningConfig(num_frames=2),
        network=NetworkConfig(depths=(1, 1), channels=(16, 16), attention=(False, False), cond_channels=32),
        training=TrainingConfig(batch_size=16, learning_rate=2e-3, num_autoregressive_steps=0),
        sampler=OdeSampler(num_steps=1),
        reward_end=RewardEndConfig((1, 1), (16, 16), (False, False), 16, 32, segment_length=9, batch_size=8, learning_rate=2e-3),
        actor_critic=ActorCriticConfig(
            (16, 16), (True, True), 32, batch_size=16, steps_per_update=8, horizon=8, learning_rate=3e-3, entropy_weight=0.01, preload=16
        ),
        agent=AgentConfig(
            budget=1000,
            initial_steps=800,
            max_initial_steps=800,
            steps_per_epoch=100,
            first_denoiser_updates=600,
            first_reward_end_updates=300,
            first_actor_critic_updates=100,
            denoiser_updates=50,
            reward_end_updates=25,
            actor_critic_updates=25,
            final_epochs=2,
            test_every=0,
        ),
        execution=ExecutionConfig(num_threads=1),
    )


class ShuffledRewards(GeneratorDraws):
    """Rewards dealt to other games than those that earned them."""

    def reward_class(self, logits: Tensor) -> Tensor:
        drawn = super().reward_class(logits)
        return drawn[torch.randperm(len(drawn), generator=self.generator, device=drawn.device)]


def mean_return(player: PolicyPlayer, seed: int) -> float:
    games = play_test_games(Follow, player, GAMES, 50, seed=1000 + seed)
    return float(np.mean([game.score for game in games]))


def trained(folder: Path, seed: int) -> float:
    folder.mkdir(parents=True)
    train_agent.run(settings(seed), JobContext(folder))
    return mean_return(PolicyPlayer(load_agent(folder / "agent").actor_critic), seed)


def untrained(seed: int) -> float:
    """An actor-critic as it starts has a uniform policy."""
    return mean_return(PolicyPlayer(build_agent(agent_learners.describe(settings(seed))).actor_critic), seed)


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and its 95% interval over seeds."""
    mean, half = float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Follow as a family of environments."""
    torch.set_num_threads(1)
    monkeypatch.setitem(games.ENV_FAMILIES, "follow/", "follow:FAMILY")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_an_agent_learns_in_imagination_but_not_from_shuffled_rewards(
    tmp_path: Path, follow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"random": [untrained(seed) for seed in SEEDS]}
    arms["imagination"] = [trained(tmp_path / f"learned{seed}", seed) for seed in SEEDS]
    monkeypatch.setattr(agent_learners, "GeneratorDraws", ShuffledRewards)
    arms["shuffled rewards"] = [trained(tmp_path / f"shuffled{seed}", seed) for seed in SEEDS]
    for name, values in arms.items():
        mean, low, high = interval(values)
        print(f"{name}: {mean:.3f} [{low:.3f}, {high:.3f}] {[round(value, 3) for value in values]}")
    _, _, random_high = interval(arms["random"])
    _, shuffled_low, shuffled_high = interval(arms["shuffled rewards"])
    assert interval(arms["imagination"])[1] > max(random_high, shuffled_high)
    assert shuffled_low < random_high, "with shuffled rewards it is not shown to beat random play"
