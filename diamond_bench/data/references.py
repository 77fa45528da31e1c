"""Held-out windows against which imagination is measured. They contain no training play and share no frame.

A window lies inside one game. It may extend across lost lives (the game continues), but never past a game over or a truncation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diamond_bench.data.leaks import Hashes, TrainingRuns, pair_hashes, run_length, window_starts
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError


@dataclass(frozen=True)
class Windows:
    """n windows of context + horizon consecutive frames of one episode set. Frames are gathered only on request."""

    episodes: EpisodeSet
    first: Tensor
    """(n,) int64: row of each window's first frame in `episodes`."""
    context: int
    """Frames before the first one to imagine."""
    horizon: int
    """Frames to imagine."""

    def __len__(self) -> int:
        return len(self.first)

    def frames(self, which: slice | Tensor = slice(None)) -> Tensor:
        """(k, context + horizon, 3, h, w) uint8, of the chosen windows."""
        return self.episodes.frames[self._rows(which)]

    def actions(self, which: slice | Tensor = slice(None)) -> Tensor:
        """(k, context + horizon, ...). Action t is taken after frame t. The last one has no effect."""
        return self.episodes.actions[self._rows(which)]

    def episode_numbers(self) -> NDArray[np.int64]:
        """(n,): number of each window's episode."""
        return (torch.searchsorted(self.episodes.starts, self.first, right=True) - 1).cpu().numpy()

    def blocks(self) -> NDArray[np.int64]:
        """(n,): number of each window's block. Windows of different blocks share no frame."""
        first = self.first.cpu().numpy()
        order = np.argsort(first, kind="stable")
        found = np.zeros(len(first), np.int64)
        found[order[1:]] = np.cumsum(np.diff(first[order]) >= self.context + self.horizon)
        return found

    def _rows(self, which: slice | Tensor) -> Tensor:
        return self.first[which, None] + torch.arange(self.context + self.horizon, device=self.first.device)


def reference_windows(
    heldout: EpisodeSet,
    num: int,
    context: int,
    horizon: int,
    seed: int,
    train: EpisodeSet | None = None,
    starts: Sequence[int] | None = None,
) -> Windows:
    """`num` disjoint windows, in an order drawn by `seed`. The first k of `num` are the same as those of a smaller `num`.

    `starts`: first rows of the usable windows, as listed in dataset.json. Without them, windows lie end to end from each game's first frame
    and, with `train`, those that occur there are left out (`find_leaks`). Raises UserError with the number of windows if there are fewer
    than `num`.
    """
    window = context + horizon
    first = starts if starts is not None else [start + offset for start, rows in _spans(heldout) for offset in window_starts(rows, window)]
    windows = Windows(heldout, torch.tensor(first, dtype=torch.int64, device=heldout.frames.device), context, horizon)
    leaks = 0
    if train is not None:
        leaking = find_leaks(train, windows)
        leaks = int(leaking.sum())
        windows = Windows(heldout, windows.first[~leaking], context, horizon)
    if len(windows) < num:
        refused = f" ({leaks} more occur in training)" if leaks else ""
        raise UserError(
            f"{num} reference trajectories of {context} + {horizon} frames asked for, the held-out episodes hold {len(windows)}{refused}: "
            f"lower evaluation.num_trajectories or the horizon, or raise data.num_references"
        )
    order = np.random.default_rng(seed).permutation(len(windows))[:num]
    return Windows(heldout, windows.first[torch.from_numpy(order).to(windows.first.device)], context, horizon)


def one_step_windows(references: Windows, num: int = 0, seed: int = 0) -> Windows:
    """Every frame after the context of each reference, with the `context` frames before it: all in order, or `num` of them drawn by `seed`
    (with 0, or if there are fewer, all). Like the references, none of them occurs in training."""
    first = (references.first[:, None] + torch.arange(references.horizon, device=references.first.device)).flatten().sort().values
    if 0 < num < len(first):
        chosen = np.sort(np.random.default_rng(seed).choice(len(first), num, replace=False))
        first = first[torch.from_numpy(chosen).to(first.device)]
    return Windows(references.episodes, first, references.context, 1)


def every_few(windows: Windows, most: int) -> Windows:
    """At most `most` of the windows, spread evenly over them, in their order."""
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(most, len(windows))).round().astype(np.int64))
    return replace(windows, first=windows.first[torch.from_numpy(chosen).to(windows.first.device)])


def find_leaks(train: EpisodeSet, windows: Windows) -> Tensor:
    """(n,) bool, on the windows' device: which windows occur in training, by the rule of data/leaks.py.

    Raises UserError if a whole held-out episode with a window occurs in training.
    """
    training = TrainingRuns([_hashes(train, start, rows) for start, rows in _spans(train)])
    window = windows.context + windows.horizon
    run = run_length(window)
    leaking = torch.zeros(len(windows), dtype=torch.bool)
    first = windows.first.cpu()
    for number, (start, rows) in enumerate(_spans(windows.episodes)):
        inside = torch.nonzero((first >= start) & (first < start + rows)).flatten().tolist()
        if not inside:
            continue
        pairs = _hashes(windows.episodes, start, rows)
        if training.holds(pairs):
            raise UserError(f"held-out episode {number} occurs in training: the two splits overlap; create the dataset again")
        flags = training.leaking(pairs, run)
        for i in inside:
            offset = int(first[i]) - start
            leaking[i] = bool(flags[offset : offset + window - run].any())
    return leaking.to(windows.first.device)


def count_leaks(train: EpisodeSet, windows: Windows) -> int:
    """Number of windows that occur in training; see `find_leaks`."""
    return int(find_leaks(train, windows).sum())


def _spans(episodes: EpisodeSet) -> list[tuple[int, int]]:
    """(first row, number of rows) of each episode."""
    return list(zip(episodes.starts.tolist(), episodes.lengths.tolist(), strict=True))


def _hashes(episodes: EpisodeSet, start: int, rows: int) -> Hashes:
    stop = start + rows
    return pair_hashes(episodes.frames[start:stop].cpu().numpy(), episodes.actions[start : stop - 1].cpu().numpy())
