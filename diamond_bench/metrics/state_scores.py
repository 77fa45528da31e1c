"""CRPS and ranks of object positions: where the state probe sees a game's objects in K sampled futures."""

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
"""Positions are ranked to a thousandth of a pixel: equal frames read in other batches differ in their last bits."""


def state_scores(meter: StateMeter, imagined: Tensor, play: WindowBatch, rows: Sequence[int], keys: Sequence[Key]) -> Arrays:
    """Scores of the positions of O objects in K futures of each of the n references `rows`; arrays (n,).

    Args:
        imagined: (n, K, T, 3, h, w) uint8.
        play: the references, of T frames after the context.
        keys: one per reference; it seeds the choice between equal ranks.

    `state_crps`: fair CRPS in pixels against the true position in the console's memory, the mean over x and y, objects and frames.
    It takes the objects that are truly there and that the probe finds in all K samples. `state_scored_share`: their share of all objects
    that are truly there. Both are NaN where the mean is over nothing. `copy_...`: the same of copying the last frame, and `true_...` of
    the true frames themselves, each as equal samples. `state_ranks` (n, K + 1): how often the true x or y had each rank among the
    samples, where the probe finds the object in all K and in the true frame. All K + 1 positions are as the probe reads them, so that its
    own errors do not bend the ranks of a perfect sampler.
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
    """Sums of each start over those of another array, both (n, T, O) -> (n,); NaN where the latter is 0."""
    above, below = part.sum(axis=(1, 2), dtype=np.float64), whole.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))
