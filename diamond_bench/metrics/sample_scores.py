"""Proper scores of K sampled futures: the energy score of frames and of LPIPS' features, CRPS and ranks of block-mean luminance."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.pixels import LUMINANCE
from analysis.proper_scores import crps, energy_score, expected_rank_deviation, rank_deviation, rank_shares, ranks
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.metrics.baselines import COPY_LAST, UNIFORM_RANKS
from diamond_bench.metrics.play import Arrays, Key, unit
from diamond_bench.store.rows import Row

BLOCKS = 4
"""Blocks per side of the grid whose mean luminance is scored."""
SCORES = ("energy_score", "energy_score_lpips", "luminance_crps")
RANKS = "ranks"
_TIES = 1
"""Last entry of the seed that breaks ties between ranks."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""A perceptual distance between two batches of frames (n, 3, h, w) in [-1, 1] -> (n,)."""


def sample_scores(imagined: Tensor, true: Tensor, copied: Tensor, keys: Sequence[Key], lpips: Distance | None) -> Arrays:
    """Scores of K futures of each of n starts, means over the T frames. Arrays (n,).

    Args:
        imagined: (n, K, T, 3, h, w) uint8.
        true: the true frames, (n, T, 3, h, w) uint8.
        copied: the last frame of each start's context, (n, 3, h, w) uint8.
        keys: one per start, the seed that breaks ties between ranks.
        lpips: LPIPS, if the metric is requested.

    Returns:
    - `energy_score`: distances are RMS pixel errors in [0, 1].
    - `energy_score_lpips`: distances are sqrt(LPIPS), the Euclidean distance of LPIPS' weighted unit-normalised features.
    - `luminance_crps`: mean over a 4 x 4 grid of block means.
    - `copy_...`: the same scores for the copied last frame, as K equal samples.
    - `ranks` (n, K + 1): how often the true block mean had each rank among the samples.
    """
    found: dict[str, list[float]] = {}
    counts = []
    for x, y, c, key in zip(imagined, true, copied, keys, strict=True):
        c = c.expand_as(y)
        values = {"energy_score": _energy(x, y), "copy_energy_score": float(_rms(c[:, None], y[:, None]).mean())}
        if lpips is not None:
            values |= {"energy_score_lpips": _energy_lpips(x, y, lpips), "copy_energy_score_lpips": float(_root(lpips, c, y).mean())}
        samples, truth = np.moveaxis(block_luminance(x), 0, -1), block_luminance(y)
        values["luminance_crps"] = float(crps(samples, truth).mean())
        values["copy_luminance_crps"] = float(np.abs(block_luminance(c) - truth).mean())
        drawn = ranks(samples, truth, np.random.default_rng([*key, _TIES]))
        counts.append(np.bincount(drawn.reshape(-1), minlength=len(x) + 1))
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {**{name: np.array(values) for name, values in found.items()}, RANKS: np.stack(counts)}


def score_rows(arrays: Mapping[str, NDArray[Any]]) -> list[Row]:
    """Rows of the results table from the joined arrays of `sample_scores`: the model's, copy-last-frame's and those of uniform ranks."""
    rows = []
    for name in SCORES:
        for prefix, baseline in (("", ""), ("copy_", COPY_LAST)):
            if f"{prefix}{name}" in arrays:
                rows.append(Row(name, float(np.mean(arrays[f"{prefix}{name}"].astype(np.float64))), baseline=baseline))
    return [*rows, *rank_rows("rank_deviation", arrays[RANKS])]


def rank_rows(name: str, counts: NDArray[Any]) -> list[Row]:
    """The deviation of ranks (starts, K + 1) from uniform ranks, and its expectation for one independent rank per start.

    The ranks of one start (of its frames, and its blocks or objects) depend on each other. The reference counts a start once, so it is the
    largest deviation that chance gives on average, whatever the dependence. Like the deviation, it leaves out starts without ranks. Both
    are NaN if no start has any.
    """
    starts = int(counts.any(axis=1).sum())
    chance = expected_rank_deviation(starts, counts.shape[1] - 1) if starts else float("nan")
    return [Row(name, rank_deviation(rank_shares(counts))), Row(name, chance, baseline=UNIFORM_RANKS)]


def block_luminance(frames: Tensor) -> NDArray[np.float64]:
    """Mean luminance of each block of a 4 x 4 grid, in [0, 1]. uint8 (..., 3, h, w) -> (..., 16).

    Sums are integers, so frames that are equal in a block have exactly equal means.
    """
    weights = np.array([round(1000 * weight) for weight in LUMINANCE], np.int64)
    luminance = (frames.cpu().numpy() * weights[:, None, None]).sum(axis=-3)
    sides = luminance.shape[-2:]
    edges = [np.arange(BLOCKS) * side // BLOCKS for side in sides]
    sums = np.add.reduceat(np.add.reduceat(luminance, edges[0], axis=-2), edges[1], axis=-1)
    areas = np.outer(*(np.diff([*edge, side]) for edge, side in zip(edges, sides, strict=True)))
    return np.asarray((sums / (areas * 255_000.0)).reshape(*sums.shape[:-2], -1))


def _energy(x: Tensor, y: Tensor) -> float:
    """Energy score, mean over T. x (K, T, 3, h, w) and y (T, 3, h, w) are uint8."""
    by_time = x.transpose(0, 1)
    return float(energy_score(_rms(by_time, y[:, None])[..., 0], _rms(by_time, by_time)).mean())


def _rms(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """RMS pixel error in [0, 1] of every pair. uint8 (T, m, 3, h, w) and (T, n, 3, h, w) -> (T, m, n)."""
    a, b = unit(a).flatten(2), unit(b).flatten(2)
    distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") / a.shape[-1] ** 0.5
    return np.asarray(distance.double().cpu().numpy())


def _energy_lpips(x: Tensor, y: Tensor, lpips: Distance) -> float:
    k, steps = x.shape[:2]
    first, second = np.triu_indices(k, 1)
    to_truth = _root(lpips, x.flatten(0, 1), y.repeat(k, 1, 1, 1)).reshape(k, steps).T
    between = np.zeros((steps, k, k))
    pairs = _root(lpips, x[first].flatten(0, 1), x[second].flatten(0, 1)).reshape(-1, steps).T
    between[:, first, second] = between[:, second, first] = pairs
    return float(energy_score(to_truth, between).mean())


def _root(lpips: Distance, a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """sqrt(LPIPS) of two batches of uint8 frames, (n,)."""
    return lpips(from_bytes(a), from_bytes(b)).clamp(min=0).double().sqrt().cpu().numpy()
