"""Evidence that the action of one lag matters more than those of all others. Lag 0 is the action that leads to a frame."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.differences import mean


@dataclass(frozen=True)
class Evidence:
    """The evidence for one lag from its comparisons with the others. All numbers are NaN if there is too little play."""

    p: float = nan
    """The p-value of the claim that the lag beats every other one."""
    clusters: float = nan
    """The number of clusters behind `p`."""
    margin: float = nan
    """The mean difference from the lag that comes closest: the smallest mean difference of all comparisons."""
    low: float = nan
    high: float = nan
    """The ends of its 95% interval. They are not corrected for the choice of the best lag or of the closest one."""


def evidence(margins: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]], lags: int) -> Evidence:
    """The evidence that all of these margins are above 0.

    The claim needs one one-sided t test for each margin. The p-value is the largest of them, times `lags` because the lag is the best of
    that many (Bonferroni). The margin and its interval are those of the comparison with the smallest mean. If the spreads differ, the
    largest p-value may belong to another comparison.

    Values of one episode are not independent. The standard error of a mean is therefore clustered by held-out episode, with one degree of
    freedom less than there are episodes. With fewer than 5 episodes (analysis.differences.MIN_EPISODES) it is clustered by block of
    overlapping windows. It then says nothing about other episodes. With fewer than 5 blocks there is no evidence.

    Args:
        margins: for each other lag, how far the lag exceeds it, with the numbers of the values' episodes and blocks, (n,) each.
        lags: the number of lags from which the best one was chosen.
    """
    if not margins:
        return Evidence()
    weakest, closest = Evidence(), Evidence()
    for values, episodes, blocks in margins:
        groups = [np.unique(given, return_inverse=True)[1] for given in (episodes, blocks)]
        found = mean(values[None], groups[0]) or mean(values[None], groups[1])
        if found is None:
            return Evidence()
        difference = found[0]
        p = difference.p_value() / 2 if difference.value > 0 else 1.0
        if not p <= weakest.p:
            weakest = Evidence(p, difference.freedom + 1)
        if not difference.value >= closest.margin:
            closest = Evidence(nan, nan, difference.value, *difference.interval())
    return replace(closest, p=min(1.0, lags * weakest.p), clusters=weakest.clusters)


def best_lag(scores: NDArray[Any], episodes: NDArray[Any], blocks: NDArray[Any]) -> tuple[int, Evidence]:
    """The lag with the largest mean score, and the evidence that it beats every other one in the frames that both have.

    Args:
        scores: the score of each lag at each frame, (lags, n, frames). NaN where a frame has none.
        episodes, blocks: numbers of each trajectory's episode and block, (n,).
    """
    there = ~np.isnan(scores)
    means = [lag[of].mean() if of.any() else -np.inf for lag, of in zip(scores, there, strict=True)]
    peak, margins = int(np.argmax(means)), []
    for other in range(len(scores)):
        both = there[peak] & there[other]
        if other != peak and both.any():
            row = np.nonzero(both)[0]
            margins.append((scores[peak][both] - scores[other][both], episodes[row], blocks[row]))
    return peak, evidence(margins, len(scores))
