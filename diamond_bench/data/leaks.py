"""Does held-out play occur in training? Exact matching of runs of (frame, action) pairs by 64-bit hashes. numpy alone.

A *run* is a number of consecutive (frame, action taken after it) pairs of one episode. A window leaks when one of its runs of
`run_length(window)` pairs occurs in a training episode: 64 pairs (about four seconds of Atari), or the whole window where that
is shorter. Frames are compared byte by byte through BLAKE2b; runs through a polynomial of those hashes modulo 2^64. A run that
occurs is always found; a run that does not is mistaken for one only by a collision of 64-bit hashes.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
"""(T,), one hash for each (frame, action) pair of an episode."""

_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_LONGEST_RUN = 64


def run_length(window: int) -> int:
    """Pairs in a run that makes a window of `window` frames (and so window - 1 pairs) a leak."""
    return max(1, min(_LONGEST_RUN, window - 1))


def pair_hashes(frames: npt.NDArray[np.uint8], actions: npt.NDArray[Any]) -> Hashes:
    """One hash for each (frame, action) pair. frames (T or T + 1, ...) bytes, actions (T,) int64, or (T, k) of several columns; a final
    frame has no action, so no pair.

    The layout of a frame counts: compare hashes only of frames in the same one.
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
    """(T - run + 1,) hashes, entry i of the run of pairs i .. i + run - 1; empty where the episode is shorter."""
    count = len(pairs) - run + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    powers = np.cumprod(np.full(len(pairs), _BASE, np.uint64), dtype=np.uint64)  # overflow wraps: arithmetic modulo 2^64
    inverses = np.cumprod(np.full(count, _INVERSE, np.uint64), dtype=np.uint64)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(pairs * powers, dtype=np.uint64)])
    return np.asarray((sums[run:] - sums[:count]) * inverses, np.uint64)


class TrainingRuns:
    """The runs of a training split, to look others' up in."""

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
        """Whether a whole episode occurs in training: every run of 64 of its pairs (all of them, where it is shorter) does."""
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
    """First frames of the disjoint windows of an episode of `num_frames` frames: laid end to end from its start, no frame shared."""
    return range(0, num_frames - window + 1, window)


SPREAD = 4
"""With a limit on the references per episode, a held-out game is played for so many times the frames that these references need."""


def spread_windows(starts: Sequence[int], most: int | None, seed: tuple[int, ...]) -> list[int]:
    """At most `most` of an episode's window starts, spread over the episode and all different, in their order.

    One start is drawn by `seed` from each of `most` stretches. The stretches share no start, and their lengths differ by at most 1.
    All starts are taken where `most` is None, or where there are at most `most` of them.
    """
    if most is None or len(starts) <= most:
        return list(starts)
    drawn = np.random.default_rng(seed).random(most)
    bounds = [i * len(starts) // most for i in range(most + 1)]
    return [starts[low + int(u * (high - low))] for u, (low, high) in zip(drawn, pairwise(bounds), strict=True)]
