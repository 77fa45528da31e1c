"""Each way in which an environment can break what its family says of it gets one message that names the game and the fault."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from wide_games import COLUMNS, COLUMNS_FAMILY, Tints

from diamond_bench.config import EnvConfig, EvaluationConfig, RunConfig
from diamond_bench.envs import games
from diamond_bench.errors import UserError
from diamond_bench.metrics import all_metrics
from diamond_bench.metrics.frames import pair_scores


class Faulty(Tints):
    """`Tints` with its step's outcome, or a space, changed."""

    def __init__(self, change: Callable[..., tuple[Any, ...]] = lambda *outcome: outcome, **spaces: gymnasium.Space[Any]) -> None:
        super().__init__(COLUMNS)
        self._change = change
        vars(self).update(spaces)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._change(*super().step(action))  # type: ignore[return-value]


def built(monkeypatch: pytest.MonkeyPatch, env: gymnasium.Env[Any, Any], **said: Any) -> gymnasium.Env[Any, Any]:
    """The environment as the only game of a family that says `said` of it."""
    monkeypatch.setattr(f"{__name__}.FAMILY", replace(COLUMNS_FAMILY, make=lambda game, config: env, **said), raising=False)
    monkeypatch.setitem(games.ENV_FAMILIES, "columns/", f"{__name__}:FAMILY")
    games.actions.cache_clear()
    return games.make_env("columns/tints", EnvConfig())


@pytest.mark.parametrize(
    ("change", "said", "named"),
    [
        (lambda frame, *rest: (frame.transpose(1, 0, 2), *rest), {}, r"shape \(40, 24, 3\) and type uint8, .* \(24, 40, 3\) uint8"),
        (lambda frame, *rest: (frame / np.float32(255), *rest), {}, r"shape \(24, 40, 3\) and type float32"),
        (lambda frame, *rest: (frame.tolist(), *rest), {}, "shape None and type list"),
        (lambda frame, reward, *rest: (frame, float("nan"), *rest), {"rewards": True}, "the reward nan"),
        (lambda frame, reward, ended, *rest: (frame, reward, True, *rest), {"ends": False}, "ends=False"),
    ],
)
def test_a_step_against_the_family_is_refused(
    change: Callable[..., tuple[Any, ...]], said: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = built(monkeypatch, Faulty(change), **said)
    env.reset(seed=1)
    with pytest.raises(UserError, match=f"game=columns/tints: its environment does not keep to its EnvFamily: .*{named}"):
        env.step(np.array([1, 1]))


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (
            {"observation_space": gymnasium.spaces.Box(0, 255, (40, 24, 3), np.uint8)},
            r"observation_space is .*40, 24, 3.*says \(24, 40, 3\) uint8",
        ),
        ({"observation_space": gymnasium.spaces.Box(0, 1, (24, 40, 3), np.float32)}, "observation_space is .*float32"),
        (
            {"action_space": gymnasium.spaces.MultiDiscrete([3, 4])},
            r"action_space is MultiDiscrete\(\[3 4\]\), .* MultiDiscrete\(\[3 2\]\)",
        ),
        ({"action_space": gymnasium.spaces.Discrete(6)}, r"action_space is Discrete\(6\)"),
    ],
)
def test_a_space_against_the_family_is_refused(space: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"game=columns/tints: .*{named}"):
        built(monkeypatch, Faulty(**space))


def test_what_a_game_without_rewards_returns_is_ignored_and_a_sound_game_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    env = built(monkeypatch, Faulty(lambda frame, reward, *rest: (frame, float("nan"), *rest)))
    plain = Tints(COLUMNS)
    assert np.array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0])
    assert np.array_equal(env.step(np.array([2, 1]))[0], plain.step(np.array([2, 1]))[0])


def test_a_score_that_is_not_one_number_per_pair_is_refused_by_its_metrics_name() -> None:
    frames = torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8)
    assert pair_scores({"mean": lambda a, b: (a - b).float().mean((1, 2, 3))}, frames, frames)["mean"].shape == (2, 3)
    with pytest.raises(UserError, match=r"metric pooled: its function returned the shape \(\) for 6 pairs of frames; .* the shape \(6,\)"):
        pair_scores({"pooled": lambda a, b: (a - b).float().mean()}, frames, frames)


def test_lpips_of_small_frames_names_what_sets_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    built(monkeypatch, Tints(COLUMNS))
    check, metrics = all_metrics()["lpips"].check, EvaluationConfig(metrics=("drift", "lpips"))
    with pytest.raises(UserError, match=r"^games=\[columns/tints\]: lpips needs .* 32 pixels a side, and these are 24 x 40$"):
        check(RunConfig(game="columns/tints", evaluation=metrics))
    with pytest.raises(UserError, match=r"^env\.frame_size=16: lpips needs .* these are 16 x 16; raise it$"):
        check(RunConfig(game="Breakout", env=EnvConfig(frame_size=16), evaluation=metrics))
