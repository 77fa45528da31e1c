"""Scripted experts play better than chance, and epsilon means what it says."""

import numpy as np
import pytest

from diamond_bench.config import EnvConfig
from diamond_bench.envs.atari import AtariEnv
from diamond_bench.envs.experts import EXPERTS
from diamond_bench.envs.games import check_policy
from diamond_bench.envs.policies import EpsilonGreedy, Ram
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec


def play(game: str, epsilon: float, steps: int, seed: int = 0) -> float:
    env = AtariEnv(game, EnvConfig(frame_size=16))
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    policy = EpsilonGreedy(EXPERTS[game](), epsilon, 0, ActionSpec.of_space(env.action_space), rng)
    total = 0.0
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(policy(info["ram"]))
        total += reward
        if terminated or truncated:
            break
    return total


@pytest.mark.parametrize(
    ("game", "steps", "least", "most_random"),
    [("Breakout", 400, 8, 5), ("Pong", 700, 2, -5), ("Freeway", 260, 2, 0), ("Boxing", 500, 5, 4)],
)
def test_experts_beat_chance(game: str, steps: int, least: float, most_random: float) -> None:
    assert play(game, 0.05, steps) >= least
    assert play(game, 1.0, steps) <= most_random


@pytest.mark.slow
@pytest.mark.parametrize(("game", "least"), [("Breakout", 150), ("Pong", 0), ("Freeway", 15), ("Boxing", 15)])
@pytest.mark.parametrize("epsilon", [0.01, 0.05])
def test_experts_win_whole_games(game: str, least: float, epsilon: float) -> None:
    assert np.mean([play(game, epsilon, 27_000, seed) for seed in range(10)]) > least


def test_epsilon_and_random_start() -> None:
    rng = np.random.default_rng(0)
    ram: Ram = np.zeros(128, np.uint8)
    reported: list[int] = []

    def always_nine(_: Ram, last: int) -> int:
        reported.append(last)
        return 9

    policy = EpsilonGreedy(always_nine, 0.2, 50, ActionSpec.discrete(9), rng)
    actions = [policy(ram) for _ in range(5050)]
    assert 9 not in actions[:50]
    assert set(actions[:50]) == set(range(9))
    assert np.mean(np.array(actions[50:]) != 9) == pytest.approx(0.2, abs=0.02)
    assert reported == [0, *actions[:-1]], "a policy is told what was really played"
    greedy = EpsilonGreedy(always_nine, 0.0, 0, ActionSpec.discrete(9), rng)
    assert {greedy(ram) for _ in range(50)} == {9}


def test_policies_that_cannot_play_are_refused() -> None:
    assert check_policy("random", "Seaquest") == "random"
    with pytest.raises(UserError, match="no scripted expert for Seaquest, only for Boxing, Breakout, Freeway, Pong"):
        check_policy("expert", "Seaquest")
    with pytest.raises(UserError, match=r"valid: expert, look_around, random.*data\.dataset=FOLDER"):
        check_policy("outputs/train_agent/0123/agent.safetensors", "Breakout")
