"""The lag at which actions are read best (metric action_accuracy), on models whose use of actions is known: values derived by hand."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from test_action_accuracy import PerfectReader

from diamond_bench.metrics.action_accuracy import METRIC
from diamond_bench.metrics.action_reader import ActionReader, save_reader
from diamond_bench.metrics.header import LAG_LEVEL
from diamond_bench.metrics.lags import best_lag, evidence
from diamond_bench.models.inverse_dynamics import ActionCode
from diamond_bench.spaces import ActionSpec, FrameSpec

FOUR = ActionCode(ActionSpec.discrete(4), (0, 1, 2, 3))
BOX = ActionCode(ActionSpec.continuous((-1.0,), (1.0,)))
NEVER = 3.0
"""A class that the cycles below never impose."""


def cycles(trajectories: int) -> np.ndarray:
    """Imposed classes (n, 4, 1): 0 1 2 0, 1 2 0 1 or 2 0 1 2. No class equals the one before it, or two before."""
    return ((np.arange(trajectories)[:, None] + np.arange(4)) % 3).astype(float)[..., None]


def obeying(imposed: np.ndarray, late: int) -> np.ndarray:
    """What is read if each frame shows the action of `late` steps before, and the first frames show none that was imposed."""
    read = np.full_like(imposed, NEVER)
    read[:, late:] = imposed[:, : 4 - late]
    return read


def rows(
    folder: Path,
    imposed: np.ndarray,
    read: np.ndarray,
    episodes: np.ndarray,
    code: ActionCode = FOUR,
    game: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[tuple[str, str], float]:
    """The rows of the metric for these values, each trajectory a block of its own. `game`: what is read from the game itself, and whether
    it had not ended."""
    save_reader(ActionReader(PerfectReader(1, FrameSpec(16, 16), code.width), code), 1, FrameSpec(16, 16), folder)
    arrays = {
        "action_imposed": imposed,
        "action_read": read,
        "action_first": read,
        "action_copied": np.full_like(imposed, imposed[0, 0, 0]),
    }
    arrays |= {"episodes": episodes, "blocks": np.arange(len(imposed))}
    if game is not None:
        arrays |= {"true_action_read": game[0], "true_action_first": game[0], "true_action_lasted": game[1]}
    reduced = METRIC.reduce(SimpleNamespace(inputs={"inverse_dynamics": folder}, altered=arrays))["after"]
    return {(row.metric.removeprefix("action_"), row.baseline): row.value for row in reduced}


@pytest.mark.parametrize("late", [0, 1, 2])
def test_the_lag_of_a_model_that_obeys_is_its_delay(late: int, tmp_path: Path) -> None:
    """With cycles the accuracy is 1 at the lag of the model and 0 at all others, in every episode."""
    imposed = cycles(12)
    found = rows(tmp_path, imposed, obeying(imposed, late), np.arange(12) // 2)
    names = ("accuracy", "accuracy_lag_1", "accuracy_lag_2")
    assert [found[name, ""] for name in names] == [float(lag == late) for lag in range(3)]
    assert [found[f"accuracy_lag{name}", ""] for name in ("", "_p", "_clusters")] == pytest.approx([late, 0, 6])
    assert [found[f"accuracy_lag_margin{name}", ""] for name in ("", "_low", "_high")] == pytest.approx([1, 1, 1])


def test_withheld_actions_and_copied_frames_have_no_lag(tmp_path: Path) -> None:
    """All 256 sequences of 4 classes, so one answer for all of them is right in a quarter of the cases at every lag."""
    imposed = np.array(list(product(range(4), repeat=4)), float)[..., None]
    found = rows(tmp_path, imposed, np.full_like(imposed, 2), np.arange(256) % 8)
    for baseline in ("", "copy-last-frame"):
        assert [found[name, baseline] for name in ("accuracy", "accuracy_lag_1", "accuracy_lag_2")] == [0.25] * 3
        assert np.isnan(found["accuracy_lag", baseline])
        assert (found["accuracy_lag_p", baseline], found["accuracy_lag_margin", baseline]) == (1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_actions_that_chance_imposes_on_a_deaf_model_name_no_lag(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    imposed, read = rng.integers(0, 4, (2, 64, 4, 1)).astype(float)
    found = rows(tmp_path, imposed, read, np.arange(64) // 8)
    assert np.isnan(found["accuracy_lag", ""])
    assert found["accuracy_lag_p", ""] > 0.01
    assert found["accuracy_lag_margin_low", ""] < found["accuracy_lag_margin", ""] < found["accuracy_lag_margin_high", ""]


def test_trajectories_of_one_episode_are_not_independent(tmp_path: Path) -> None:
    """Six episodes of 4 trajectories. A late model obeys in all of them or in half of them, and by turns it does not learn."""
    imposed, episodes = cycles(24), np.arange(24) // 4
    read = np.where(((np.arange(24) % 4 < 2) | (episodes % 2 == 0))[:, None, None], obeying(imposed, 1), NEVER)
    found = rows(tmp_path, imposed, read, episodes)
    error = np.std([1, 0.5] * 3, ddof=1) / 6**0.5
    assert found["accuracy_lag_margin", ""] == pytest.approx(0.75)
    assert found["accuracy_lag_margin_low", ""] == pytest.approx(0.75 - stats.t.ppf(0.975, 5) * error)
    assert found["accuracy_lag_margin_high", ""] == pytest.approx(0.75 + stats.t.ppf(0.975, 5) * error)
    assert found["accuracy_lag_p", ""] == pytest.approx(3 * stats.t.sf(0.75 / error, 5))
    assert found["accuracy_lag", ""] == 1
    half = rows(tmp_path, imposed, np.where((episodes % 2 == 0)[:, None, None], obeying(imposed, 1), NEVER), episodes)
    assert np.isnan(half["accuracy_lag", ""]), "all 36 pairs that differ favour lag 1, but they come from 3 of 6 episodes"


def test_lags_are_compared_in_the_frames_that_both_have(tmp_path: Path) -> None:
    """A model that obeys in its first frame alone is right at lag 0 in a quarter of the frames. Lag 1 has no first frame."""
    imposed = cycles(12)
    read = np.full_like(imposed, NEVER)
    read[:, 0] = imposed[:, 0]
    found = rows(tmp_path, imposed, read, np.arange(12) // 2)
    assert (found["accuracy", ""], found["accuracy_lag_1", ""]) == (0.25, 0)
    assert (found["accuracy_lag_margin", ""], found["accuracy_lag_p", ""]) == (0, 1)
    assert np.isnan(found["accuracy_lag", ""])
    imposed, episodes = cycles(36), np.arange(36) // 6  # now one of the six in each episode obeys one step late after its first frame
    read = np.where((np.arange(36) % 6 == 0)[:, None, None], obeying(imposed, 1), NEVER)
    read[:, 0] = imposed[:, 0]
    found = rows(tmp_path, imposed, read, episodes)
    assert (found["accuracy", ""], found["accuracy_lag_1", ""]) == pytest.approx((1 / 4, 1 / 6))
    assert (found["accuracy_lag_margin", ""], found["accuracy_lag_p", ""]) == pytest.approx((-1 / 6, 1)), (
        "worse in the frames that both have"
    )


def test_frames_after_the_end_of_the_game_do_not_count(tmp_path: Path) -> None:
    """The game obeys for two frames and ends. The frames that follow look like those of a late model."""
    imposed = cycles(12)
    read = np.concatenate([imposed[:, :2], obeying(imposed, 1)[:, 2:]], axis=1)
    late, episodes = obeying(imposed, 1), np.arange(12) // 2
    two, one = (np.broadcast_to(np.arange(4) < frames, (12, 4)) for frames in (2, 1))
    found = rows(tmp_path, imposed, late, episodes, game=(read, two))
    assert (found["accuracy", "emulator"], found["accuracy_lag_1", "emulator"]) == (1, 0)
    assert (found["accuracy_lag", "emulator"], found["accuracy_lag", ""]) == (0, 1)
    assert ("accuracy_lag_2", "emulator") not in found, "no third frame lasted"
    ended = rows(tmp_path, imposed, late, episodes, game=(read, one))
    assert np.isnan(ended["accuracy_lag_p", "emulator"]), "no lag to compare with"


def test_continuous_actions_have_the_lag_of_their_side(tmp_path: Path) -> None:
    """Sides + + - - in all four phases, read one step late with half the size: side accuracy 1 at lag 1. At lag 0 every second side equals
    the one before it. At lag 2 one step lies between, so again every second side is right."""
    sides = np.array([1, 1, -1, -1] * 2, float)
    imposed = np.stack([sides[phase : phase + 4] for phase in range(4)] * 5)[..., None]
    found = rows(tmp_path, imposed, 0.5 * obeying(imposed, 1), np.arange(20) // 4, BOX)
    assert (found["sign_accuracy_lag_1", ""], found["sign_accuracy_lag_2", ""]) == (1, 0.5)
    assert (found["accuracy_lag", ""], found["accuracy_lag_margin", ""]) == (1, 0.5)
    assert ("accuracy", "") not in found


def test_few_episodes_leave_trajectories_as_clusters(tmp_path: Path) -> None:
    imposed = cycles(12)
    found = rows(tmp_path, imposed, imposed, np.arange(12) // 4)
    assert (found["accuracy_lag", ""], found["accuracy_lag_clusters", ""]) == (0, 12)
    few = rows(tmp_path, imposed[:4], imposed[:4], np.zeros(4, int))
    assert np.isnan([few[f"accuracy_lag{name}", ""] for name in ("", "_p", "_clusters", "_margin")]).all()


def test_the_best_lag_is_the_weakest_of_its_comparisons() -> None:
    """Lag 2 beats lag 0 in every episode, and lag 1 in all but one."""
    scores = np.stack([np.zeros(6), np.array([1.0, 0, 0, 0, 0, 0]), np.ones(6)])[..., None]
    peak, found = best_lag(scores, np.arange(6), np.arange(6))
    assert peak == 2
    assert found.margin == pytest.approx(5 / 6)
    assert found.p == pytest.approx(3 * stats.t.sf(5 / 6 / (1 / 36) ** 0.5, 5))


def test_of_two_lags_that_do_better_in_the_same_frames_the_margin_is_that_of_the_larger_one() -> None:
    """Lag 0 is the best through its first frame alone. In frames that both have, lag 1 exceeds it by 1/6 and lag 2 by 1/2. So both margins
    are negative, and p is 1 for each."""
    scores = np.full((3, 6, 3), np.nan)
    scores[0] = [6, 0, 0]
    scores[1, :, 1:] = [[2, 0]] + [[0, 0]] * 5
    scores[2, :, 2] = [0, 1, 0, 1, 0, 1]
    peak, found = best_lag(scores, np.arange(6), np.arange(6))
    reach = stats.t.ppf(0.975, 5) * (0.3 / 6) ** 0.5  # three 0 and three -1: variance 0.3
    assert (peak, found.p) == (0, 1)
    assert (found.margin, found.low, found.high) == pytest.approx((-1 / 2, -1 / 2 - reach, -1 / 2 + reach))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_p_is_that_of_the_noisier_margin_if_the_smaller_one_is_surer(order: tuple[int, int]) -> None:
    """One margin is 1, from values of 0.5 and 1.5. The other is 2, from values of -2 and 6: larger, but with eight times the error."""
    steady, noisy = np.array([0.5, 1.5] * 3), np.array([-2.0, 6.0] * 3)
    margins = [(values, np.arange(6), np.arange(6)) for values in (steady, noisy)]
    found = evidence([margins[place] for place in order], lags=3)
    error = np.std(steady, ddof=1) / 6**0.5
    reach = stats.t.ppf(0.975, 5) * error
    assert found.p == pytest.approx(3 * stats.t.sf(2 / (8 * error), 5))
    assert (found.margin, found.low, found.high) == pytest.approx((1, 1 - reach, 1 + reach))
    assert found.clusters == 6


def test_p_and_its_clusters_come_from_one_comparison() -> None:
    """The margin of six episodes is smaller and surer. That of eight is larger, and four of its episodes are against it."""
    six = (np.array([0.5, 1.5] * 3), np.arange(6), np.arange(6))
    eight = (np.array([-2.0, 6.0] * 4), np.arange(8), np.arange(8))
    found = evidence([six, eight], lags=3)
    assert (found.margin, found.clusters) == (1, 8)
    assert found.p == pytest.approx(3 * stats.t.sf(2 / (np.std(eight[0], ddof=1) / 8**0.5), 7))


@pytest.mark.parametrize(("episodes", "trajectories"), [(6, 2), (24, 1), (8, 8)])
def test_chance_seldom_names_a_lag(episodes: int, trajectories: int) -> None:
    """A model that ignores actions shows a favourite action of each episode half of the time. At most 1% of such models may get a lag.
    With these seeds 1 of 3,000 does. 12 would without the factor for the choice of the best lag."""
    rng, named, models = np.random.default_rng(0), 0, 1000
    episode = np.repeat(np.arange(episodes), trajectories)
    for _ in range(models):
        imposed, read = rng.integers(0, 4, (2, len(episode), 8))
        read = np.where(rng.random(read.shape) < 0.5, rng.integers(0, 4, episodes)[episode, None], read)
        scores = np.full((3, *read.shape), np.nan)
        for lag in range(3):
            scores[lag, :, lag:] = read[:, lag:] == imposed[:, : 8 - lag]
        named += best_lag(scores, episode, np.arange(len(episode)))[1].p < LAG_LEVEL
    assert named <= LAG_LEVEL * models
