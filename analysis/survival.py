"""The share of imagined games that have not collapsed after t frames. A game that ends before it collapses is censored."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_TAIL = 0.025


@dataclass(frozen=True)
class Survival:
    """The Kaplan-Meier estimate at t = 0, 1, ..., T with its 95% interval at each t, NaN where no play was observed so far. Each array is
    (T + 1,)."""

    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    at_risk: NDArray[np.int64]
    """Plays that were observed up to frame t and had not collapsed before it."""

    @property
    def lifetime(self) -> float:
        """The mean number of frames before the collapse, restricted to the frames at which a play was observed: the sum of the share over
        t = 1, ..., T."""
        return float(np.nansum(self.share[1:]))


def survival(lasted: ArrayLike, collapsed: ArrayLike, horizon: int) -> Survival:
    """The survival of n plays (Kaplan and Meier 1958). Plays count as independent.

    The interval has Greenwood's variance and the log-log transform, which keep it within [0, 1]. Where the estimate is 0 or 1 the transform
    is undefined. There it is the exact binomial interval, of the plays at risk at 1 and of those that collapsed at 0.

    Args:
        lasted: frames before the collapse, or before the play ended, (n,) from 0 to `horizon`.
        collapsed: whether the play collapsed with its next frame, (n,) bool. Otherwise nothing is known about its further frames.
        horizon: T.

    Raises ValueError for no plays, other shapes, numbers outside of [0, T], or a collapse after frame T.
    """
    frames, events = np.asarray(lasted, dtype=np.float64), np.asarray(collapsed, dtype=bool)
    if frames.ndim != 1 or frames.shape != events.shape or not len(frames):
        raise ValueError(f"survival needs one number and one flag per play, got shapes {frames.shape} and {events.shape}")
    if frames.min() < 0 or (frames + events).max() > horizon:
        raise ValueError(f"survival up to frame {horizon}: a play lasted from {frames.min():g} to {frames.max():g} frames")
    found = stats.ecdf(stats.CensoredData.right_censored(frames + events, ~events)).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # undefined at 0 and 1, see below
        interval = found.confidence_interval(0.95, method="log-log")
    times = np.arange(horizon + 1)
    share, low, high = (np.asarray(function.evaluate(times), np.float64) for function in (found, interval.low, interval.high))
    at_risk = (frames + events >= times[:, None]).sum(axis=1)
    bound = _TAIL ** (1 / np.maximum(at_risk, 1))
    low = np.where(share >= 1, bound, np.where(share <= 0, 0.0, low))
    high = np.where(share >= 1, 1.0, np.where(share <= 0, 1 - _TAIL ** (1 / max(1, int(events.sum()))), high))
    unknown = (at_risk == 0) & (share > 0)  # beyond the last play, unless all have collapsed
    share, low, high = (np.where(unknown, np.nan, values) for values in (share, low, high))
    return Survival(share, low, high, at_risk)
