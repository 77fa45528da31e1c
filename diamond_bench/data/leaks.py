"""Finds held-out play that occurs in training, by exact matching of runs of (frame, action) pairs with 64-bit hashes. NumPy only.

A *run* consists of consecutive (frame, action taken after it) pairs of one episode. A window leaks if one of its runs of
`run_length(window)` pairs occurs in a training episode: 64 pairs (about four seconds of Atari), or the whole window if it is shorter.
Frames are compared byte by byte through BLAKE2b, and runs through a polynomial of those hashes modulo 2^64. A run that occurs is always
found. A run that does not occur is reported only after a collision of 64-bit hashes.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
"""(T,), one hash per (frame, action) pair of an episode."""

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_LONGEST_RUN = 64


def run_length(window: int) -> int:
    """Length in pairs of a run that makes a window of `window` frames (with window - 1 pairs) a leak."""
    return max(1, min(_LONGEST_RUN, window - 1))


def pair_hashes(frames: npt.NDArray[np.uint8], actions: npt.NDArray[Any]) -> Hashes:
    """One hash per (frame, action) pair. frames (T or T + 1, ...) bytes, actions (T,) int64, or (T, k) for several columns. A final frame
    has no action, so it has no pair.

    The memory layout of a frame counts: compare only hashes of frames with the same layout.
    """
    hashes = np.empty(len(actions), np.uint64)
    columns = actions + 0.0 if actions.dtype.kind == "f" else actions  # -0.0 is the same action as 0.0
    for t, action in enumerate(columns):
        if actions.ndim == 1:
            digest = hashlib.blake2b(frames[t].tobytes(), digest_size=8, salt=int(action).to_bytes(8, "little", signed=True))
        else:
            digest = hashlib.blake2b(frames[t].tobytes() + action.tobytes(), digest_size=8)
        hashes[t] = int.from_bytes(digest.digest(), "little")
    return hashes


def run_hashes(pairs: Hashes, run: int) -> Hashes:
    """(T - run + 1,) hashes. Entry i belongs to the run of pairs i .. i + run - 1. Empty if the episode is shorter."""
    count = len(pairs) - run + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    powers = np.cumprod(np.full(len(pairs), _BASE, np.uint64), dtype=np.uint64)  # overflow wraps: arithmetic modulo 2^64
    inverses = np.cumprod(np.full(count, _INVERSE, np.uint64), dtype=np.uint64)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(pairs * powers, dtype=np.uint64)])
    return np.asarray((sums[run:] - sums[:count]) * inverses, np.uint64)


class TrainingRuns:
    """The runs of a training split, for looking up others."""

    def __init__(self, episodes: Sequence[Hashes]) -> None:
        """`episodes`: the pair hashes of each training episode."""
        self._episodes = list(episodes)
        self._seen: dict[int, Hashes] = {}

    def leaking(self, pairs: Hashes, run: int) -> npt.NDArray[np.bool_]:
        """(T - run + 1,): whether the run that starts at each pair occurs in training."""
        if run not in self._seen:
            self._seen[run] = np.unique(np.concatenate([np.empty(0, np.uint64), *(run_hashes(e, run) for e in self._episodes)]))
        return np.isin(run_hashes(pairs, run), self._seen[run])

    def holds(self, pairs: Hashes) -> bool:
        """Whether a whole episode occurs in training: every run of 64 of its pairs (or of all, if it is shorter) does."""
        flags = self.leaking(pairs, max(1, min(_LONGEST_RUN, len(pairs))))
        return bool(len(flags) > 0 and flags.all())

    def split_windows(self, pairs: Hashes, window: int) -> tuple[list[int], list[int]]:
        """(usable, leaking) starts of an episode's disjoint windows of `window` frames (see `window_starts`)."""
        run = run_length(window)
        flags = self.leaking(pairs, run)
        usable: list[int] = []
        refused: list[int] = []
        for start in window_starts(len(pairs) + 1, window):
            (refused if flags[start : start + window - run].any() else usable).append(start)
        return usable, refused


def window_starts(num_frames: int, window: int) -> range:
    """First frames of the disjoint windows of an episode of `num_frames` frames. They lie end to end from its start and share no frame."""
    return range(0, num_frames - window + 1, window)


SPREAD = 4
"""With a limit on references per episode, a held-out game is played for this many times the frames that these references need."""


def spread_windows(starts: Sequence[int], most: int | None, seed: tuple[int, ...]) -> list[int]:
    """At most `most` of an episode's window starts, spread over the episode, all different, in order.

    One start is drawn by `seed` from each of `most` parts. The parts share no start, and their lengths differ by at most 1. All starts are
    taken if `most` is None, or if there are at most `most` of them.
    """
    if most is None or len(starts) <= most:
        return list(starts)
    drawn = np.random.default_rng(seed).random(most)
    bounds = [i * len(starts) // most for i in range(most + 1)]
    return [starts[low + int(u * (high - low))] for u, (low, high) in zip(drawn, pairwise(bounds), strict=True)]
