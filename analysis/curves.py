"""From raw scores to the data of figures: mean curves with bands, and points with intervals. Pure numpy and pandas."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.differences import MIN_EPISODES, Random, mean
from analysis.runs import MIN_RUNS

Band = Literal["interval", "spread"]


@dataclass(frozen=True)
class Curve:
    """A mean over trajectories and seeds at t = 1, 2, ..., with a band; each array (t,)."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    num_seeds: int
    num_trajectories: int
    band: Band
    num_episodes: int = 0
    """Number of held-out episodes from which the trajectories were cut."""
    random: Random | None = None
    """The random factors of an interval. None if there are too few seeds and episodes for one (low and high are then NaN)."""


def mean_curve(values: ArrayLike, band: Band = "interval", episodes: ArrayLike | None = None) -> Curve:
    """The mean of values (seeds, trajectories, t), or (trajectories, t) for one seed, with its band. Raises ValueError for another shape.

    `interval`: 95% Student interval of the mean at each t, by the estimate that verdicts use (`analysis.differences.mean`). Seeds are
    random from MIN_RUNS on. Trajectories are random too, crossed with seeds and clustered by episode, from MIN_EPISODES episodes on.
    `episodes` (trajectories,) are the episodes from which they were cut; without it every trajectory counts as an episode. If all values
    are at least 0, the band is clipped at 0. `spread`: the middle 80% of all trajectories.
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"a curve needs values (seeds, trajectories, t), got shape {np.shape(values)}")
    if not np.isfinite(array).all():
        raise ValueError("a curve needs finite values")
    num_seeds, num_trajectories, length = array.shape
    own = np.arange(num_trajectories) if episodes is None else np.asarray(episodes)
    if own.shape != (num_trajectories,):
        raise ValueError(f"a curve of {num_trajectories} trajectories needs as many episodes, got shape {own.shape}")
    names, numbers = np.unique(own, return_inverse=True)
    whole = array.mean(axis=(0, 1))
    if band == "spread":
        low, high = np.quantile(array.reshape(num_seeds * num_trajectories, -1), [0.1, 0.9], axis=0)
        return Curve(whole, low, high, num_seeds, num_trajectories, band, len(names))
    found = [mean(array[:, :, t], numbers) for t in range(length)]
    ends = np.array([one[0].interval() if one else (np.nan, np.nan) for one in found]).T
    low, high = ends.clip(min=0.0) if array.min() >= 0.0 else ends
    return Curve(whole, low, high, num_seeds, num_trajectories, band, len(names), found[0][1] if found[0] else None)


def band_words(curves: Iterable[Curve]) -> str:
    """A description of the bands of curves with intervals, for a caption."""
    by_kind: dict[Random | None, list[Curve]] = {}
    for curve in curves:
        by_kind.setdefault(curve.random, []).append(curve)
    words: dict[Random | None, str] = {
        "seeds and references": "band: 95% interval of the mean, over seeds and references clustered by episode",
        "seeds": "band: 95% interval of the mean over seeds, for these references alone",
        "references": "band: 95% interval of the mean over references clustered by episode, saying nothing about other seeds",
        None: f"no band: fewer than {MIN_RUNS} seeds and fewer than {MIN_EPISODES} episodes",
    }
    texts = []
    for kind, of_kind in by_kind.items():
        seeds = ", ".join(map(str, sorted({curve.num_seeds for curve in of_kind})))
        texts.append(f"{words[kind]}{f' (where there are {seeds} seeds)' if len(by_kind) > 1 else ''}")
    return "; ".join(texts)


def interval_words(num_seeds: Iterable[int], what: str = "intervals") -> str:
    """A description of the intervals over seeds of `mean_points`, for a caption. `what`: their name (intervals, band, lines)."""
    numbers = list(num_seeds)
    if max(numbers, default=0) < MIN_RUNS:
        return f"no {what}: fewer than {MIN_RUNS} seeds"
    words = f"{what}: 95% interval of the mean over seeds (Student's t)"
    return f"{words}, where there are at least {MIN_RUNS}" if min(numbers) < MIN_RUNS else words


def mean_points(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds with a 95% Student interval of scores with columns metric, group, nfe, seed, value: one row per run.

    -> metric, group, nfe, mean, low, high, num_seeds. low and high are NaN below MIN_RUNS seeds. Groups and metrics keep the order of their
    first appearance. Raises ValueError for a missing column, a run given twice or a value that is not finite.
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

    -> keys, mean, low, high, num_seeds, in order of appearance. low and high are NaN below MIN_RUNS rows. Raises ValueError for a value
    that is not finite.
    """
    if not np.isfinite(scores["value"].to_numpy(dtype=np.float64)).all():
        raise ValueError("scores need finite values: leave out the rows of metrics that were not measured")
    points = scores.groupby(list(keys), sort=False)["value"].agg(mean="mean", sem="sem", num_seeds="size").reset_index()
    several = points["num_seeds"] >= MIN_RUNS
    reach = (stats.t.ppf(0.975, (points["num_seeds"] - 1).clip(lower=1)) * points["sem"]).where(several)
    return points.assign(low=points["mean"] - reach, high=points["mean"] + reach)[[*keys, "mean", "low", "high", "num_seeds"]]
