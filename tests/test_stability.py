"""Survival, collapse, motion and runs of one action, against values computed by hand."""

import numpy as np
import pytest
import torch

from analysis.stability import alarm_levels, collapses, held_shares, motion_energy, nearest_distance, small_frames
from analysis.survival import survival


def test_survival_is_as_computed_by_hand() -> None:
    """Six plays: collapses with frames 2, 4 and 4, censored after 3, 5 and 5. So S(2) = 5/6 and S(4) = 5/6 * 2/4."""
    found = survival([1, 3, 3, 3, 5, 5], [True, False, True, True, False, False], horizon=5)
    assert found.share == pytest.approx([1, 1, 5 / 6, 5 / 6, 5 / 12, 5 / 12])
    assert found.at_risk.tolist() == [6, 6, 6, 5, 4, 2]
    assert found.lifetime == pytest.approx(1 + 5 / 6 + 5 / 6 + 5 / 12 + 5 / 12)
    # Greenwood: the variance of log S is 1 / (6 * 5), then plus 2 / (4 * 2). The interval is S ** exp(+-1.96 * sd / log S).
    for t, variance in ((2, 1 / 30), (4, 1 / 30 + 1 / 4)):
        share = found.share[t]
        reach = 1.959963985 * variance**0.5 / np.log(share)
        assert (found.low[t], found.high[t]) == pytest.approx((share ** np.exp(-reach), share ** np.exp(reach)))


def test_the_interval_of_plays_that_all_last_or_all_collapse_is_the_exact_binomial_one() -> None:
    lasting = survival([4, 4, 2], [False] * 3, horizon=4)
    assert lasting.share.tolist() == [1] * 5
    assert lasting.high.tolist() == [1] * 5
    assert lasting.low == pytest.approx([0.025 ** (1 / 3)] * 3 + [0.025 ** (1 / 2)] * 2)
    assert lasting.lifetime == 4
    short = survival([2, 2], [False, False], horizon=4)
    assert np.array_equal(short.share, [1, 1, 1, np.nan, np.nan], equal_nan=True), "no play was observed beyond frame 2"
    assert np.isnan(short.low[3:]).all()
    assert short.lifetime == 2
    ended = survival([0, 0], [True, True], horizon=3)
    assert ended.share.tolist() == [1, 0, 0, 0]
    assert ended.low[1:].tolist() == [0] * 3
    assert ended.high[1:] == pytest.approx([1 - 0.025**0.5] * 3)
    assert ended.lifetime == 0


@pytest.mark.parametrize(("lasted", "collapsed"), [([], []), ([1.0], [True, False]), ([5], [False]), ([4], [True]), ([-1], [False])])
def test_survival_refuses_numbers_that_do_not_fit(lasted: list[float], collapsed: list[bool]) -> None:
    with pytest.raises(ValueError, match="survival"):
        survival(lasted, collapsed, horizon=4)


def test_a_collapse_is_a_run_above_the_threshold_that_is_whole_or_lasts_to_the_end() -> None:
    distances = [
        [0, 1, 0, 1, 1, 1, 1, 0],  # a run of three from the fourth frame
        [0, 1, 1, 0, 1, 1, 0, 0],  # no run of three
        [0, 0, 0, 0, 0, 0, 1, 1],  # a run that the end cuts: the play does not come back
        [0, 0, 1, 1, 1, 1, 1, 1],  # the game ends within a run that began after two frames
        [0, 0, 0, 1, 1, 1, 1, 1],  # the game ended before
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1],  # the game ends before a whole run
    ]
    lengths = [8, 8, 8, 4, 3, 8, 2]
    lasted, collapsed = collapses(distances, lengths, threshold=0.5, run=3)
    assert lasted.tolist() == [3, 8, 6, 2, 3, 0, 0]
    assert collapsed.tolist() == [True, False, True, True, False, True, True]


def test_the_alarm_level_is_the_least_threshold_without_a_collapse() -> None:
    distances = [[0.1, 0.5, 0.4, 0.6, 0.2], [0.1, 0.2, 0.1, 0.3, 0.7], [0.1, 0.2, 0.1, 0.3, 0.7], [0.9, 0.8, 0.1, 0.1, 0.1]]
    lengths = [5, 5, 4, 5]
    levels = alarm_levels(distances, lengths, run=2)
    assert levels.tolist() == [0.4, 0.7, 0.3, 0.8]
    for row, level in enumerate(levels):
        for threshold, alarm in ((level, False), (level - 0.01, True)):
            assert collapses(distances, lengths, threshold, run=2)[1][row] == alarm


def test_distances_are_to_the_nearest_known_frame_after_downsampling() -> None:
    frames = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    frames[1], frames[2] = 51, 255
    checkered = frames[0].clone()
    checkered[:, ::2, ::2] = 204  # a quarter of each area of two by two pixels
    found = nearest_distance(small_frames(torch.stack((frames[1], checkered, torch.full_like(frames[0], 230)))), small_frames(frames))
    assert found.tolist() == pytest.approx([0, 0, 25 / 255], abs=1e-7)
    assert small_frames(frames[None, :, :, :8]).shape == (1, 3, 3 * 8 * 16)
    many = torch.randint(0, 256, (600, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    by_hand = (many[:, None].double() - many[None, 500:].double()).square().mean(dim=(2, 3, 4)).amin(dim=1).sqrt() / 255
    assert torch.allclose(nearest_distance(small_frames(many), small_frames(many[500:])), by_hand, atol=1e-7)


def test_motion_energy_is_the_mean_squared_change() -> None:
    before = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    frames = torch.stack((before, before + 51, before + 51), dim=1)
    frames[0, 2, 0] = 102
    assert motion_energy(frames, before).tolist() == [pytest.approx([0, 0.04, 0.04 / 3])]


def test_runs_of_an_action_end_with_their_episode() -> None:
    same = [1, 1, 0, 1, 1, 1, 1, 0]  # runs 1 2 . 1 2 | 1 2 .
    assert held_shares(same, starts=[0, 5], longest=3).tolist() == [6 / 8, 3 / 8, 0]
    assert held_shares(same, starts=[0], longest=3).tolist() == [6 / 8, 4 / 8, 2 / 8]
