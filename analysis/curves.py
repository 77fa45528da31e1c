"""From raw scores to what a figure draws: mean curves with bands, and points with intervals. Pure numpy and pandas."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.runs import MIN_RUNS

Band = Literal["interval", "spread"]

REPLICATES = 1000
"""Bootstrap resamples of a mean curve."""


@dataclass(frozen=True)
class Curve:
    """A mean over trajectories and seeds at t = 1, 2, ..., with a band; each array (t,)."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    num_seeds: int
    num_trajectories: int
    band: Band


def mean_curve(values: ArrayLike, band: Band = "interval", seed: int = 0) -> Curve:
    """The mean of values (seeds, trajectories, t), or (trajectories, t) of one seed, with its band. Raises ValueError at another shape.

    `interval`: 95% bootstrap interval of the mean, resampling seeds and trajectories both (they are crossed: every seed is evaluated on
    the same references; Owen 2007). Deviations of n seeds are scaled by sqrt(n / (n - 1)), and the band by Student's t over the normal
    quantile, with Satterthwaite's degrees of freedom: a plain percentile interval of 3 to 5 seeds is far too narrow (Hesterberg 2015).
    Fewer than MIN_RUNS tell nothing of the spread between seeds: then trajectories alone are resampled, and the band says nothing about
    other seeds (`band_words`). `spread`: the middle 80% of all trajectories.
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"a curve needs values (seeds, trajectories, t), got shape {np.shape(values)}")
    if not np.isfinite(array).all():
        raise ValueError("a curve needs finite values")
    num_seeds, num_trajectories, _ = array.shape
    mean = array.mean(axis=(0, 1))
    if band == "spread":
        low, high = np.quantile(array.reshape(num_seeds * num_trajectories, -1), [0.1, 0.9], axis=0)
    else:
        of_seeds = array if num_seeds >= MIN_RUNS else array.mean(axis=0, keepdims=True)
        low, high = mean + _expansion(of_seeds) * np.quantile(_resampled_means(of_seeds, seed) - mean, [0.025, 0.975], axis=0)
    return Curve(mean, low, high, num_seeds, num_trajectories, band)


def band_words(curves: Iterable[Curve]) -> str:
    """What the bands of curves with intervals are of, for a caption."""
    seeds = [curve.num_seeds for curve in curves]
    few = sorted({number for number in seeds if number < MIN_RUNS})
    alone = f"over trajectories of {' or '.join(map(str, few))} {'seed' if few == [1] else 'seeds'}, saying nothing about other seeds"
    if few and max(seeds) < MIN_RUNS:
        return f"band: 95% interval of the mean {alone}"
    words = "band: 95% interval of the mean over seeds and trajectories"
    return f"{words} (where there are fewer than {MIN_RUNS} seeds: {alone})" if few else words


def interval_words(num_seeds: Iterable[int], what: str = "intervals") -> str:
    """What the intervals over seeds of `mean_points` are, for a caption; `what` they are called (intervals, band, lines)."""
    numbers = list(num_seeds)
    if max(numbers, default=0) < MIN_RUNS:
        return f"no {what}: fewer than {MIN_RUNS} seeds"
    words = f"{what}: 95% interval of the mean over seeds (Student's t)"
    return f"{words}, where there are at least {MIN_RUNS}" if min(numbers) < MIN_RUNS else words


def _expansion(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(t,): Student's t over the normal quantile, at the degrees of freedom of the mean over seeds and trajectories."""
    total, share = np.zeros(values.shape[-1]), np.zeros(values.shape[-1])
    for other, n in ((1, values.shape[0]), (0, values.shape[1])):
        if n > 1:
            variance = values.mean(axis=other).var(axis=0, ddof=1) / n
            total, share = total + variance, share + variance**2 / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(share > 0, total**2 / share, np.inf)
    return np.asarray(stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975), dtype=np.float64)


def _resampled_means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    num_seeds, num_trajectories, _ = values.shape
    generator = np.random.default_rng(seed)

    def shares(n: int) -> NDArray[np.float64]:  # (replicates, n): how often each was drawn, over n
        return generator.multinomial(n, np.full(n, 1.0 / n), size=REPLICATES) / n

    by_seed, by_trajectory = shares(num_seeds), shares(num_trajectories)
    if num_seeds > 1:
        common = values.mean(axis=0)
        values = common + (values - common) * np.sqrt(num_seeds / (num_seeds - 1))
    return sum(
        (by_seed[:, s, None] * (by_trajectory @ values[s]) for s in range(num_seeds)), start=np.zeros((REPLICATES, values.shape[-1]))
    )


def mean_points(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds with a 95% Student interval of scores with columns metric, group, nfe, seed, value: one row a run.

    -> metric, group, nfe, mean, low, high, num_seeds; low and high are NaN below MIN_RUNS seeds. Groups and metrics keep the order of
    their first appearance. Raises ValueError for a missing column, a run given twice or a value that is
    not finite.
    """
    keys = ["metric", "group", "nfe"]
    missing = {*keys, "seed", "value"} - set(scores.columns)
    if missing:
        raise ValueError(f"scores lack the columns {sorted(missing)}")
    twice = scores[scores.duplicated([*keys, "seed"])]
    if len(twice):
        raise ValueError(f"scores hold a run more than once, such as {twice.iloc[0][[*keys, 'seed']].to_dict()}")
    return mean_over_seeds(scores, keys)


def mean_over_seeds(scores: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean of the column value over the rows of each combination of `keys`, with a 95% Student interval.

    -> keys, mean, low, high, num_seeds, in order of appearance; low and high are NaN below MIN_RUNS rows. Raises ValueError for a value
    that is not finite.
    """
    if not np.isfinite(scores["value"].to_numpy(dtype=np.float64)).all():
        raise ValueError("scores need finite values: leave out the rows of metrics that were not measured")
    points = scores.groupby(list(keys), sort=False)["value"].agg(mean="mean", sem="sem", num_seeds="size").reset_index()
    several = points["num_seeds"] >= MIN_RUNS
    reach = (stats.t.ppf(0.975, (points["num_seeds"] - 1).clip(lower=1)) * points["sem"]).where(several)
    return points.assign(low=points["mean"] - reach, high=points["mean"] + reach)[[*keys, "mean", "low", "high", "num_seeds"]]
