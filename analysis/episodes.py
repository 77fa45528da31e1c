"""Intervals of a mean return over episodes, and of the difference between two policies. Pure numpy and scipy."""

import numpy as np
from numpy.typing import ArrayLike

from analysis.aggregates import Estimate

MIN_EPISODES = 2
"""Fewest episodes whose spread can be estimated."""


def mean_return(returns: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The mean of the returns (episodes,) with Student's t interval. Without an interval (NaN) below MIN_EPISODES episodes.

    Raises ValueError if there is no episode or a return is not finite.
    """
    from scipy import stats

    values = _checked(returns)
    mean = float(values.mean())
    if len(values) < MIN_EPISODES:
        return Estimate(mean, np.nan, np.nan)
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - reach, mean + reach)


def return_difference(returns: ArrayLike, others: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of `returns` minus mean of `others`, independent episodes, with Welch's t interval (Welch 1947): variances may differ.

    Without an interval (NaN) below MIN_EPISODES episodes on either side. Its ends are the value if nothing varies. Raises ValueError as
    `mean_return`.
    """
    from scipy import stats

    sides = [_checked(returns), _checked(others)]
    value = float(sides[0].mean() - sides[1].mean())
    if min(map(len, sides)) < MIN_EPISODES:
        return Estimate(value, np.nan, np.nan)
    parts = np.array([side.var(ddof=1) / len(side) for side in sides])
    if not parts.any():
        return Estimate(value, value, value)
    freedom = parts.sum() ** 2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(parts.sum()))
    return Estimate(value, value - reach, value + reach)


def _checked(returns: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"expected finite returns (episodes,), got shape {values.shape}: {values}")
    return values
