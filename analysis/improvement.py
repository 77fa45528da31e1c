"""The probability that a run of one side is better than a run of the other, with an interval that holds for few runs."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from analysis.aggregates import improvement

Array = NDArray[np.float64]


def probability(games: Sequence[tuple[Array, Array]]) -> float:
    """P(a run of x is above a run of y), ties counted half: over all pairs of runs of a game, then the mean over games."""
    return float(np.mean([improvement(x[:, None], y[:, None]) for x, y in games]))


def probability_interval(games: Sequence[tuple[Array, Array]], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of `probability` for independent runs, within [0, 1].

    In each game Newcombe's method 5 (2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic"), which
    has a width also where the two sides do not overlap; over games combined by MOVER (Donner and Zou 2012).
    """
    from scipy.special import ndtri

    z = float(ndtri((1.0 + confidence) / 2.0))
    values = [probability([game]) for game in games]
    ends = [_newcombe(value, len(x), len(y), z) for value, (x, y) in zip(values, games, strict=True)]
    centre, count = float(np.mean(values)), len(games)
    below = sqrt(sum((value - low) ** 2 for value, (low, _) in zip(values, ends, strict=True))) / count
    above = sqrt(sum((high - value) ** 2 for value, (_, high) in zip(values, ends, strict=True))) / count
    return max(0.0, centre - below), min(1.0, centre + above)


def _newcombe(value: float, n: int, m: int, z: float) -> tuple[float, float]:
    """The values of theta whose distance from `value` is z standard errors, each error taken at theta."""
    from scipy.optimize import brentq

    common = (n + m) / 2 - 1

    def excess(theta: float) -> float:
        variance = theta * (1 - theta) * (1 + common * (1 - theta) / (2 - theta) + common * theta / (1 + theta)) / (n * m)
        return (value - theta) ** 2 - z**2 * variance

    near = 1e-12  # at 0 and 1 the standard error is 0 too
    low = 0.0 if value <= near else float(brentq(excess, 0.0, value - near))
    high = 1.0 if value >= 1.0 - near else float(brentq(excess, value + near, 1.0))
    return low, high
