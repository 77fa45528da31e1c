"""CRPS and ranks of object positions that the state probe reads in K sampled futures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from analysis.proper_scores import crps, ranks
from diamond_bench.metrics.baselines import COPY_LAST, STATE_PROBE
from diamond_bench.metrics.play import Arrays, Key, WindowBatch
from diamond_bench.metrics.sample_scores import rank_rows
from diamond_bench.metrics.state_meter import StateMeter, read_frames
from diamond_bench.store.rows import Row

CRPS, SCORED, RANKS = "state_crps", "state_scored_share", "state_ranks"
_TIES = 2
"""Last entry of the seed that breaks ties between ranks."""
_DECIMALS = 3
"""Decimals of positions before ranking: readings of equal frames differ in their last bits between batches."""


def state_scores(meter: StateMeter, imagined: Tensor, play: WindowBatch, rows: Sequence[int], keys: Sequence[Key]) -> Arrays:
    """Scores of the positions of O objects in K futures of each of the n references `rows`. Arrays (n,).

    Args:
        imagined: (n, K, T, 3, h, w) uint8.
        play: the references, with T frames after the context.
        keys: one per reference, the seed that breaks ties between ranks.

    Returns:
    - `state_crps`: fair CRPS in pixels against the true position in the console's memory, the mean over x and y, objects and frames. It
      covers the objects that are truly there and that the probe finds in all K samples.
    - `state_scored_share`: their share of all objects that are truly there. Both are NaN if there are none.
    - `copy_...`: the same scores for the copied last frame, as equal samples. `true_...`: for the true frames themselves.
    - `state_ranks` (n, K + 1): how often the true x or y had each rank among the samples, if the probe finds the object in all K samples
      and in the true frame. The probe reads all K + 1 positions, so that its own errors do not distort the ranks of a perfect sampler.
    """
    places, seen = read_frames(meter.network, imagined)  # (n, K, T, O, 2), (n, K, T, O)
    true_places, true_seen = read_frames(meter.network, play.true)
    copied, copied_seen = read_frames(meter.network, play.frames[:, play.context - 1 : play.context])
    truth, there = meter.truth(rows, play.true.shape[1])  # (n, T, O, 2), (n, T, O)
    found: Arrays = {}
    for prefix, x, scored in (
        ("", places, seen.all(axis=1) & there),
        ("copy_", np.stack([np.broadcast_to(copied, truth.shape)] * 2, axis=1), copied_seen & there),
        ("true_", np.stack([true_places] * 2, axis=1), true_seen & there),
    ):
        score = crps(np.moveaxis(x, 1, -1), truth).mean(axis=-1)
        found[prefix + CRPS] = _ratio(np.where(scored, score, 0.0), scored)
        found[prefix + SCORED] = _ratio(scored, there)
    counts = []
    for x, y, known, key in zip(places.round(_DECIMALS), true_places.round(_DECIMALS), seen.all(axis=1) & true_seen, keys, strict=True):
        drawn = ranks(np.moveaxis(x, 0, -1)[known], y[known], np.random.default_rng([*key, _TIES]))
        counts.append(np.bincount(drawn.reshape(-1), minlength=len(x) + 1))
    return found | {RANKS: np.stack(counts)}


def state_score_rows(arrays: Mapping[str, NDArray[Any]]) -> list[Row]:
    """Rows of the results table from the joined arrays of `state_scores`: means over the starts that have a value."""
    rows = []
    for prefix, baseline in (("", ""), ("copy_", COPY_LAST), ("true_", STATE_PROBE)):
        for name in (CRPS, SCORED):
            known = arrays[prefix + name][np.isfinite(arrays[prefix + name])]
            rows.append(Row(name, float(known.mean()) if known.size else float("nan"), baseline=baseline))
    return [*rows, *rank_rows("state_rank_deviation", arrays[RANKS])]


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Ratios of sums per start, both arrays (n, T, O) -> (n,). NaN if the divisor is 0."""
    above, below = part.sum(axis=(1, 2), dtype=np.float64), whole.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))
