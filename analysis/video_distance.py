"""Distances between two sets of clips' features, FVD and KVD, with intervals over episodes. Pure numpy, float64.

The caller chooses the features. The published numbers use the 400 logits of I3D.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.aggregates import Estimate
from analysis.frechet import gaussian_frechet_distance

Array = NDArray[np.float64]
MIN_EPISODES = 20
"""Fewest episodes whose jackknife gives an interval."""


def frechet_video_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """FVD (Unterthiner et al. 2018) of features a (n, d) and b (m, d), with covariances divided by n and m, as in StyleGAN-V.

    It is biased upwards, more so with fewer clips: compare only values from equal numbers of clips. Raises ValueError for another shape or
    values that are not finite.
    """
    (a, b), _ = _checked(a, b)
    return gaussian_frechet_distance(a.mean(0), np.cov(a, rowvar=False, bias=True), b.mean(0), np.cov(b, rowvar=False, bias=True))


def kernel_video_distance(a: NDArray[np.floating], b: NDArray[np.floating], episodes_a: ArrayLike, episodes_b: ArrayLike) -> float:
    """KVD: the unbiased MMD^2 of features a (n, d) and b (m, d), with the kernel (x.y / d + 1)^3 of KID. It may be slightly negative.

    Pairs of clips of one episode are left out of all three means, because such clips depend on each other. Without this rule an imagined
    clip would be compared with its own true continuation. `episodes_a` (n,) and `episodes_b` (m,) number the clips' episodes. Raises
    ValueError if a mean has no pair left.
    """
    (a, b), (groups_a, groups_b) = _checked(a, b, episodes_a, episodes_b)
    return _mmd(*_blocks(a, b, groups_a, groups_b))


def frechet_interval(
    a: NDArray[np.floating], b: NDArray[np.floating], episodes_a: ArrayLike, episodes_b: ArrayLike, confidence: float = 0.95
) -> Estimate:
    """FVD with the interval of a delete-one-episode jackknife: NaN below MIN_EPISODES episodes. Arguments as in `kernel_video_distance`.

    An episode is deleted from both sides at once, since a true clip and the clip imagined from its start vary together. The interval states
    the spread over episodes. It does not correct the bias.
    """
    (a, b), groups = _checked(a, b, episodes_a, episodes_b)
    sides = [_Moments(x, of) for x, of in zip((a, b), groups, strict=True)]

    def distance(episode: int | None) -> float:
        return gaussian_frechet_distance(*sides[0].without(episode), *sides[1].without(episode))

    return _jackknife(distance, groups, confidence, low=0.0)


def kernel_interval(
    a: NDArray[np.floating], b: NDArray[np.floating], episodes_a: ArrayLike, episodes_b: ArrayLike, confidence: float = 0.95
) -> Estimate:
    """KVD with the interval of the same jackknife."""
    (a, b), groups = _checked(a, b, episodes_a, episodes_b)
    sums, counts = _blocks(a, b, *groups)

    def distance(episode: int | None) -> float:
        kept = np.ones(sums.shape[1], bool)
        if episode is not None:
            kept[episode] = False
        return _mmd(*(x[:, kept][:, :, kept] for x in (sums, counts)))

    return _jackknife(distance, groups, confidence)


class _Moments:
    """Mean and covariance of features (n, d), with and without each of their groups."""

    def __init__(self, features: Array, groups: NDArray[np.int64]) -> None:
        self._features, self._groups = features, groups
        self._centre = features.mean(0)
        self._scatter = (features - self._centre).T @ (features - self._centre)

    def without(self, group: int | None) -> tuple[Array, Array]:
        deleted = self._features[self._groups == group] - self._centre  # none for None
        left = len(self._features) - len(deleted)
        shift = -deleted.sum(0) / left
        return self._centre + shift, (self._scatter - deleted.T @ deleted) / left - np.outer(shift, shift)


def _blocks(a: Array, b: Array, groups_a: NDArray[np.int64], groups_b: NDArray[np.int64]) -> tuple[Array, Array]:
    """Sums of the kernel and numbers of pairs between groups, both (3, groups, groups): within a, within b, and between a and b."""
    number = 1 + max(groups_a.max(), groups_b.max())
    one, other = (np.eye(number)[groups] for groups in (groups_a, groups_b))
    sides = ((a, a, one, one), (b, b, other, other), (a, b, one, other))
    sums = np.stack([u.T @ ((x @ y.T / x.shape[1] + 1.0) ** 3) @ v for x, y, u, v in sides])
    counts = np.stack([np.outer(u.sum(0), v.sum(0)) for _, _, u, v in sides])
    apart = ~np.eye(number, dtype=bool)
    return sums * apart, counts * apart


def _mmd(sums: Array, counts: Array) -> float:
    totals = counts.sum((1, 2))
    if not totals.all():
        raise ValueError("KVD compares clips of different episodes, so each side needs clips of at least two episodes")
    within_a, within_b, between = sums.sum((1, 2)) / totals
    return float(within_a + within_b - 2.0 * between)


def _jackknife(
    distance: Callable[[int | None], float], groups: tuple[NDArray[np.int64], NDArray[np.int64]], confidence: float, low: float = -np.inf
) -> Estimate:
    """The value with all episodes, and Student's t interval from the values without each of them."""
    from scipy import stats

    value, episodes = distance(None), np.unique(np.concatenate(groups)).tolist()
    number = len(episodes)
    if number < MIN_EPISODES:
        return Estimate(value, np.nan, np.nan)
    without = np.array([distance(episode) for episode in episodes])
    error = np.sqrt((number - 1) / number * ((without - without.mean()) ** 2).sum())
    reach = float(stats.t.ppf((1 + confidence) / 2, number - 1) * error)
    return Estimate(value, max(value - reach, low), value + reach)


def _checked(
    a: NDArray[np.floating], b: NDArray[np.floating], episodes_a: ArrayLike = (), episodes_b: ArrayLike = ()
) -> tuple[tuple[Array, Array], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The features in float64, and the episodes numbered from 0 for both sides together."""
    sides, numbers = [np.asarray(x) for x in (a, b)], [np.asarray(x, np.int64) for x in (episodes_a, episodes_b)]
    for name, side, of in zip("ab", sides, numbers, strict=True):
        if side.ndim != 2 or not np.issubdtype(side.dtype, np.floating) or len(side) < 2 or side.shape[1] != sides[0].shape[-1]:
            raise ValueError(f"features {name}: expected floats (n, d) of one d, n of at least 2, got {side.dtype} {side.shape}")
        if not np.isfinite(side).all():
            raise ValueError(f"features {name}: expected finite values")
        if of.size and of.shape != side.shape[:1]:
            raise ValueError(f"episodes {name}: expected one number per clip, got {of.shape} for {len(side)} clips")
    _, together = np.unique(np.concatenate(numbers), return_inverse=True)
    groups = np.split(together.astype(np.int64), [len(numbers[0])])
    return (sides[0].astype(np.float64), sides[1].astype(np.float64)), (groups[0], groups[1])
