"""Rank correlations over clusters: intervals by resampling clusters, and permutation tests with Holm's correction."""

from collections.abc import Sequence
from itertools import permutations
from math import factorial
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.chart import RC, Chart, fitted, keep, panel_grid, shared_legend
from analysis.looks import styles
from analysis.multiplicity import ARRANGEMENTS, EXACT, holm

MIN_AGENTS = 10
"""Minimum number of agents."""
REPLICATES = 2000
_FEWEST = 3
"""Minimum number of clusters with a rank correlation."""
COLUMNS = ("metric", "agents", "clusters", "rho", "low", "high", "p", "p_holm")

Array = NDArray[np.float64]


def rank_correlations(agents: pd.DataFrame, metrics: Sequence[str], outcome: str, seed: int = 0) -> pd.DataFrame:
    """Spearman's rank correlation of each metric with an outcome, one row per metric (COLUMNS).

    A cluster counts once, with the means of its agents' values. So agents that share a world model are one observation of it. The interval
    is the 95% percentile interval over REPLICATES resamples of the clusters. p is two-sided, from permutations of the outcome over the
    clusters: all of them up to EXACT, otherwise ARRANGEMENTS drawn ones with the observed one. p_holm is corrected over the metrics.

    Args:
        agents: one row per agent, with the columns cluster, `outcome` and `metrics`. A metric that was not measured is NaN.
        metrics: names of columns.
        outcome: name of a column.
        seed: seed of the resamples and permutations.

    Raises ValueError for fewer than MIN_AGENTS agents. A metric that is constant, or known for fewer than MIN_AGENTS agents or 3 clusters,
    has NaN, and counts in the correction.
    """
    if len(agents) < MIN_AGENTS:
        raise ValueError(f"{len(agents)} agents, expected at least {MIN_AGENTS}")
    rows = [_correlation(agents, metric, outcome, np.random.default_rng(seed)) for metric in metrics]
    corrected = holm([row[-1] for row in rows])
    return pd.DataFrame([[*row, p] for row, p in zip(rows, corrected, strict=True)], columns=list(COLUMNS))


def _correlation(agents: pd.DataFrame, metric: str, outcome: str, generator: np.random.Generator) -> list[Any]:
    known = agents[np.isfinite(agents[metric]) & np.isfinite(agents[outcome])]
    means = known.groupby("cluster", sort=False)[[metric, outcome]].mean()
    x, y = means[metric].to_numpy(np.float64), means[outcome].to_numpy(np.float64)
    n = len(x)
    found = [metric, len(known), n]
    if len(known) < MIN_AGENTS or n < _FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return [*found, *[float("nan")] * 4]
    rho = float(spearman(x[None], y[None])[0])
    resampled = generator.integers(n, size=(REPLICATES, n))
    low, high = np.nanpercentile(spearman(x[resampled], y[resampled]), [2.5, 97.5])
    return [*found, rho, float(low), float(high), _p_value(x, y, rho, generator)]


def _p_value(x: Array, y: Array, rho: float, generator: np.random.Generator) -> float:

    n = len(x)
    if factorial(n) <= EXACT:
        orders = np.array(list(permutations(range(n))))
    else:
        drawn = generator.permuted(np.tile(np.arange(n), (ARRANGEMENTS, 1)), axis=1)
        orders = np.concatenate([np.arange(n)[None], drawn])
    permuted = spearman(np.broadcast_to(x, orders.shape), y[orders])
    return float(np.mean(np.abs(permuted) >= abs(rho) - 1e-9))


def spearman(x: Array, y: Array) -> Array:
    """Spearman's rank correlation of each row of x and y, (k, n) -> (k,). Ties have their mean rank. NaN where a row is constant."""
    a, b = (stats.rankdata(values, axis=1) for values in (x, y))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return found


def correlation_figure(agents: pd.DataFrame, found: pd.DataFrame, outcome: str, labels: dict[str, str], ylabel: str) -> Chart:
    """The outcome against each metric: one panel for each row of `found`, and one point for each cluster, in the look of its column group.

    `agents` as in `rank_correlations`, with a further column group. `labels`: titles of the metrics.
    """
    shown = found[np.isfinite(found["rho"])]
    if shown.empty:
        raise ValueError("no rank correlation to draw")
    means = agents.groupby(["group", "cluster"], sort=False)[[outcome, *shown["metric"]]].mean().reset_index()
    looks = styles([str(group) for group in dict.fromkeys(means["group"])])
    with matplotlib.rc_context(RC):
        figure, axes = panel_grid(len(shown), ylabel)
        for ax, row in zip(axes, shown.to_dict("records"), strict=True):
            title = labels.get(row["metric"], row["metric"])
            for group, look in looks.items():
                own = means[means["group"].astype(str) == group]
                ax.plot(own[row["metric"]], own[outcome], linestyle="none", label=group, **look.point)
                keep(ax, title, group, x=own[row["metric"]].to_numpy(), value=own[outcome].to_numpy())
            ax.set_title(f"ρ = {row['rho']:.2f} [{row['low']:.2f}, {row['high']:.2f}]")
            ax.set_xlabel(fitted(title, 2.5))
        shared_legend(figure, fewest=2)
    return figure
