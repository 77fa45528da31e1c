"""Random play, which the score of a single agent is compared with: its games, and the words of the comparison."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from analysis.episodes import mean_return, return_difference
from diamond_bench.cli.common import print_results
from diamond_bench.config import AgentEvaluationConfig, EnvConfig
from diamond_bench.envs import games
from diamond_bench.envs.family import EnvFamily
from diamond_bench.errors import UserError
from diamond_bench.jobs import play_random
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.report.agent_answer import answer
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.kinds import PlayRandom
from diamond_bench.studies.plan import save_plan
from diamond_bench.studies.single import plan_train


class Lottery(gymnasium.Env[Any, int]):
    """Five actions: action k pays 10 to the power of k, so a return counts how often each was taken. A game has nine steps."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.action_space = spaces.Discrete(5)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 9
        return np.zeros((8, 8, 3), np.uint8), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.zeros((8, 8, 3), np.uint8), 10.0**action, self.left == 0, False, {}


FAMILY = EnvFamily(
    about="A game of the tests.",
    names=lambda: ("lottery/five",),
    frames=lambda game, config: FrameSpec.square(8),
    actions=lambda game: ActionSpec.discrete(5),
    make=lambda game, config: Lottery(),
    conditions=lambda game, config: {"environment": game},
)


@pytest.fixture
def lottery(monkeypatch: pytest.MonkeyPatch) -> PlayRandom:
    monkeypatch.setitem(games.ENV_FAMILIES, "lottery/", "test_random_play:FAMILY")
    return PlayRandom("lottery/five", EnvConfig(frame_size=8), AgentEvaluationConfig(episodes=300, num_envs=10))


def test_random_play_takes_every_action_equally_often(lottery: PlayRandom, tmp_path: Path) -> None:
    result = play_random.run(lottery, JobContext(tmp_path))
    returns = np.load(tmp_path / "arrays.npz")["test_return"]
    counts = sum(np.array([int(digit) for digit in f"{int(score):05d}"]) for score in returns)
    assert counts.sum() == 300 * 9
    assert np.abs(counts - 540).max() < 4 * np.sqrt(2700 * 0.2 * 0.8)  # 83
    assert [(row.metric, row.baseline, row.value) for row in result.rows] == [
        ("test_return", "random-play", returns.mean()),
        ("test_length", "random-play", 9.0),
    ]
    assert result.info["protocol_record"]["policy"] == "uniformly random actions"


def test_interrupted_random_play_ends_with_the_same_games(lottery: PlayRandom, tmp_path: Path) -> None:
    few = replace(lottery, evaluation=AgentEvaluationConfig(episodes=20, num_envs=2))
    whole = play_random.run(few, JobContext(tmp_path / "whole"))
    asked = iter(range(1000))
    with pytest.raises(Interrupted, match="stopped with 10 of 20 episodes played; they are kept"):
        play_random.run(few, JobContext(tmp_path / "stopped", should_stop=lambda: next(asked) == 100))
    assert play_random.run(few, JobContext(tmp_path / "stopped")).rows == whole.rows


def test_agents_of_one_game_and_protocol_share_random_play() -> None:
    def at_random(*tokens: str) -> str:
        (ref,) = (ref for ref in plan_train(["scale=tiny", *tokens]).jobs if ref.kind == "play_random")
        return ref.id

    first = at_random("game=Pong", "seed=0")
    assert at_random("game=Pong", "seed=1", "agent_evaluation.temperature=0.5", "agent.budget=70") == first
    assert at_random("game=Boxing", "seed=0") != first
    assert at_random("game=Pong", "seed=0", "env.sticky_actions=0.25") != first


def test_intervals_over_episodes_are_student_and_welch() -> None:
    """t of 3 degrees of freedom is 3.18245; Welch's degrees of freedom here are 5.95 (scipy.stats.ttest_ind)."""
    one, other = [1.0, 2.0, 3.0, 4.0], [10.0, 10.0, 11.0, 13.0]
    found = mean_return(one)
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 0.445740, 4.554260), abs=1e-6)
    gap = return_difference(other, one)
    assert (gap.value, gap.low, gap.high) == pytest.approx((8.5, 6.152559, 10.847441), abs=1e-6)
    assert np.isnan([mean_return([3.0]).low, return_difference([3.0], one).high]).all()
    flat = return_difference([2.0, 2.0], [1.0, 1.0])
    assert (flat.value, flat.low, flat.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="finite returns"):
        mean_return([1.0, np.nan])


@pytest.mark.parametrize(
    ("returns", "says"),
    [
        ([10.0, 10.0, 11.0, 13.0], "beats random play, by 8.5 ["),
        ([-4.0, -4.0, -3.0, -5.0], "is worse than random play, by 6.5 ["),
        ([2.0, 4.0, 3.0, 1.0], "show no difference from random play: 0 ["),
    ],
)
def test_the_answer_compares_with_random_play(returns: list[float], says: str) -> None:
    text = answer(returns, [1.0, 2.0, 3.0, 4.0])
    assert says in text
    assert "random play 2.5, [0.4457, 4.554] over 4 episodes." in text


def test_one_episode_gets_no_interval() -> None:
    assert answer([7.0], [1.0, 2.0]).startswith(
        "Return 7 in one episode; random play 1.5, [-4.853, 7.853] over 2 episodes. An interval needs"
    )


def test_train_answers_first(trained_store: Path) -> None:
    printed = (trained_store.parent / "printed").read_text()
    own, at_random = (np.load(next((trained_store / kind).iterdir()) / "arrays.npz") for kind in ("evaluate_agent", "play_random"))
    assert printed.startswith(f"Return {own['test_return'].mean():.4g}, 95% interval [")
    assert f"random play {at_random['test_return'].mean():.4g}, [" in printed
    assert len(at_random["test_return"]) == 2
    assert " random-play " in printed


def test_random_play_alone_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, plan = Store(tmp_path, say=lambda text: None), plan_train(["game=Pong", "scale=tiny"])
    (spec,) = (spec for spec in plan.jobs.values() if spec.kind == "play_random")
    store.prepare(spec)
    claim = store.claim(spec.ref)
    assert claim is not None
    row = {"metric": "test_return", "value": -20.5, "baseline": "random-play"}
    claim.finish({"rows": [row], "info": {}, "recorded": {"revision": 1}})
    sentence = f"has no results yet: 1 of 3 jobs is done, but no evaluation. To run what is missing:\n  {plan.command}"
    with pytest.raises(UserError, match=re.escape(sentence)):
        print_results(save_plan(plan, store.root), store, as_json=False)
    assert "random-play" in capsys.readouterr().out
