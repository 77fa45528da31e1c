"""Held-out windows: inside one game, disjoint, and none of them in training."""

import dataclasses

import numpy as np
import pytest
import torch
from episode_sets import episode_set

from diamond_bench.data.leaks import TrainingRuns, pair_hashes, run_hashes
from diamond_bench.data.references import count_leaks, find_leaks, one_step_windows, reference_windows
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError


def noise_set(*steps: int, seed: int) -> EpisodeSet:
    rng = np.random.default_rng(seed)
    empty = episode_set(*steps, size=2)
    frames = torch.from_numpy(rng.integers(0, 256, tuple(empty.frames.shape), dtype=np.uint8))
    return dataclasses.replace(empty, frames=frames, actions=torch.from_numpy(rng.integers(0, 4, len(frames))))


def planted(train: EpisodeSet, heldout: EpisodeSet, from_row: int, to_row: int, pairs: int) -> EpisodeSet:
    """`train` with `pairs` (frame, action) pairs of `heldout` copied in."""
    frames, actions = train.frames.clone(), train.actions.clone()
    frames[to_row : to_row + pairs] = heldout.frames[from_row : from_row + pairs]
    actions[to_row : to_row + pairs] = heldout.actions[from_row : from_row + pairs]
    return dataclasses.replace(train, frames=frames, actions=actions)


def test_windows_are_disjoint_and_never_pass_the_end_of_a_game() -> None:
    heldout = episode_set(29, 8, 9, 31)  # 30, 9, 10 and 32 frames hold 3, 0, 1 and 3 windows of 10
    windows = reference_windows(heldout, 7, 4, 6, seed=0)
    frames, actions = windows.frames(), windows.actions()
    assert frames.shape == (7, 10, 3, 8, 8)
    shown, number = frames[:, :, 0, 0, 0].long(), frames[:, :, 1, 0, 0].long()
    assert torch.equal(shown, shown[:, :1] + torch.arange(10))
    assert torch.equal(number, number[:, :1].expand(-1, 10))
    assert torch.equal(actions[:, :-1], ((shown + number) % 4)[:, :-1])
    rows = {(int(n), int(t)) for n, t in zip(number.flatten(), shown.flatten(), strict=True)}
    assert len(rows) == 70
    assert torch.equal(windows.frames(slice(2, 5)), frames[2:5])
    assert torch.equal(windows.actions(torch.tensor([6, 1])), actions[[6, 1]])


def test_the_final_observation_can_end_a_window() -> None:
    windows = reference_windows(episode_set(9), 1, 4, 6, seed=0)
    assert windows.frames()[0, -1, 0, 0, 0] == 9
    with pytest.raises(UserError, match="hold 0"):
        reference_windows(episode_set(8), 1, 4, 6, seed=0)


def test_fewer_windows_are_the_first_of_more() -> None:
    heldout = episode_set(100, 100)
    more, fewer = reference_windows(heldout, 15, 3, 7, seed=5), reference_windows(heldout, 4, 3, 7, seed=5)
    assert torch.equal(more.first[:4], fewer.first)
    assert not torch.equal(more.first, reference_windows(heldout, 15, 3, 7, seed=6).first)
    with pytest.raises(UserError, match="21 reference trajectories of 3 \\+ 7 frames asked for, the held-out episodes hold 20"):
        reference_windows(heldout, 21, 3, 7, seed=5)


def test_one_step_windows_are_all_of_them() -> None:
    references = reference_windows(episode_set(5, 2, 6), 2, 3, 2, seed=0, starts=[0, 9])
    windows = one_step_windows(references)
    frames = windows.frames()[:, :, :2, 0, 0]
    assert [tuple(f[0].tolist()) for f in frames] == [(0, 0), (1, 0), (0, 2), (1, 2)]
    assert torch.equal(frames[:, :, 0], frames[:, :1, 0] + torch.arange(4, dtype=torch.uint8))
    some = one_step_windows(references, num=3, seed=1)
    assert len(some) == 3
    assert set(some.first.tolist()) < set(windows.first.tolist())


@pytest.mark.parametrize("offset", [0, 7, 36])
def test_a_planted_run_is_found_and_its_window_refused(offset: int) -> None:
    heldout, train = noise_set(399, seed=1), noise_set(250, 250, seed=2)
    windows = reference_windows(heldout, 4, 8, 92, seed=0)
    assert count_leaks(train, windows) == 0
    leaky = planted(train, heldout, 200 + offset - (offset == 36), 300, 64)
    expected = windows.first == 200
    assert torch.equal(find_leaks(leaky, windows), expected)
    kept = reference_windows(heldout, 3, 8, 92, seed=0, train=leaky)
    assert 200 not in kept.first.tolist()
    with pytest.raises(UserError, match=r"hold 3 \(1 more occur in training\)"):
        reference_windows(heldout, 4, 8, 92, seed=0, train=leaky)


def test_what_is_no_leak() -> None:
    heldout, train = noise_set(399, seed=1), noise_set(250, 250, seed=2)
    windows = reference_windows(heldout, 4, 8, 92, seed=0)
    assert count_leaks(planted(train, heldout, 205, 300, 63), windows) == 0, "a shorter run"
    assert count_leaks(planted(train, heldout, 260, 300, 75), windows) == 0, "a run over two windows, in neither of them long enough"
    assert count_leaks(planted(train, heldout, 205, 220, 64), windows) == 0, "a run over two training games is none of play"
    other = planted(train, heldout, 205, 300, 64)
    other.actions[330] = (other.actions[330] + 1) % 4
    assert count_leaks(other, windows) == 0, "other actions"


def test_short_windows_leak_when_they_occur_as_a_whole() -> None:
    heldout, train = noise_set(39, seed=1), noise_set(80, seed=2)
    windows = reference_windows(heldout, 4, 4, 6, seed=0)
    leaky = planted(train, heldout, 10, 50, 9)
    assert windows.first[find_leaks(leaky, windows)].tolist() == [10]
    assert count_leaks(planted(train, heldout, 10, 50, 8), windows) == 0


def test_a_heldout_episode_in_training_is_an_error() -> None:
    heldout, train = noise_set(90, 70, seed=1), noise_set(250, seed=2)
    leaky = planted(train, heldout, 91, 20, 70)
    with pytest.raises(UserError, match="held-out episode 1 occurs in training"):
        find_leaks(leaky, reference_windows(heldout, 7, 4, 16, seed=0))


def test_hashes_of_runs_depend_on_all_their_pairs_and_not_on_their_place() -> None:
    rng = np.random.default_rng(0)
    frames, actions = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8), rng.integers(0, 4, 39)
    pairs = pair_hashes(frames, actions)
    runs = run_hashes(pairs, 10)
    assert len(runs) == 30
    np.testing.assert_array_equal(run_hashes(pair_hashes(frames[5:], actions[5:]), 10), runs[5:])
    for i in range(10):
        changed = frames[:11].copy()
        changed[i, 3, 3, 2] ^= 1
        assert run_hashes(pair_hashes(changed, actions[:10]), 10)[0] != runs[0]
    assert len(run_hashes(pairs, 40)) == 0
    assert not TrainingRuns([]).holds(pairs)
