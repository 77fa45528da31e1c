"""Studentised permutation tests of two sides of runs within games: of no difference, and of a difference beyond a margin.

They are studentised (Janssen 1997; Chung and Romano 2013), since the plain test rejects too often if the two sides differ in variance and
in their number of runs. With few runs the studentised test does so too (15% at variances 16 to 1 and 3 runs against 10), so a comparison
takes the larger of this p-value and Welch's. Labels of unpaired runs are exchanged within games. For pairs, the signs of the differences
are flipped. Up to EXACT, all arrangements are tried. Above that, ARRANGEMENTS are drawn, including the observed one. The draws depend only
on the numbers of runs, so equal runs give equal p-values.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, product
from math import comb, prod

import numpy as np
from numpy.typing import NDArray

from analysis.multiplicity import ARRANGEMENTS, EXACT

Array = NDArray[np.float64]
Sides = Sequence[tuple[Array, Array]]
"""By game: the run means (n,) of the variant and (m,) of the baseline; paired runs are at equal positions."""


def two_sided(games: Sides, paired: bool) -> float:
    """p-value of no difference, against a difference in either direction."""
    return _share(np.abs(_statistics(games, paired)))


def equivalence(games: Sides, paired: bool, margin: float) -> float:
    """p-value of two one-sided tests: that the difference is at least `margin`, or at most -margin.

    Each is a permutation test after the variant was shifted to the edge of the margin. It is exact if the differences of pairs are
    symmetric, or if both sides have the same distribution up to the shift.
    """
    above = _statistics([(y, x - margin) for x, y in games], paired)  # evidence for "the difference is below margin"
    below = _statistics([(x + margin, y) for x, y in games], paired)
    return max(_share(above), _share(below))


def _statistics(games: Sides, paired: bool) -> Array:
    """(arrangements,): mean difference over its standard error, the observed arrangement first."""
    exact = _count(games, paired) <= EXACT
    means, variances = np.zeros(1), np.zeros(1)
    for number, (x, y) in enumerate(games):
        mean, variance = _flipped(x - y, exact, number) if paired else _exchanged(x, y, exact, number)
        if exact:
            means, variances = (means[:, None] + mean).ravel(), (variances[:, None] + variance).ravel()
        else:
            means, variances = means + mean, variances + variance
    scale = max(float(np.abs(means).max()), 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = means / np.sqrt(np.where(variances > (1e-9 * scale) ** 2, variances, 0.0))
    return np.where(np.abs(means) <= 1e-12 * scale, 0.0, statistics)


def _share(statistics: Array) -> float:
    """Share of arrangements at least as extreme as the first. Ties differ from it only by rounding."""
    observed = statistics[0]
    return float(np.mean(statistics >= (observed - 1e-9 * abs(observed) if np.isfinite(observed) else observed)))


def _count(games: Sides, paired: bool) -> int:
    return 2 ** sum(len(x) for x, _ in games) if paired else prod(comb(len(x) + len(y), len(x)) for x, y in games)


def _flipped(differences: Array, exact: bool, game: int) -> tuple[Array, Array]:
    """Mean of the differences and its estimated variance, under every arrangement of signs."""
    n = len(differences)
    means = _signs(n, exact, game) @ differences / n
    return means, (np.mean(differences**2) - means**2).clip(min=0.0) / (n - 1)


def _exchanged(x: Array, y: Array, exact: bool, game: int) -> tuple[Array, Array]:
    """Difference of means and Welch's estimate of its variance, under every arrangement of labels."""
    n, m = len(x), len(y)
    centre = (x.sum() + y.sum()) / (n + m)  # squares of large numbers would lose digits
    values = np.concatenate([x, y]) - centre
    labels = _labels(n, m, exact, game)
    sums, squares = labels @ values, labels @ values**2
    rest, rest_squares = values.sum() - sums, (values**2).sum() - squares
    first, second = sums / n, rest / m
    variances = (squares / n - first**2).clip(min=0.0) / (n - 1) + (rest_squares / m - second**2).clip(min=0.0) / (m - 1)
    return first - second, variances


@lru_cache(maxsize=64)
def _signs(n: int, exact: bool, game: int) -> Array:
    """(arrangements, n) of +1 and -1, all +1 first."""
    if exact:
        return np.array(list(product((1.0, -1.0), repeat=n)))
    drawn = _generator(n, 0, game).integers(2, size=(ARRANGEMENTS, n)) * 2.0 - 1.0
    return np.concatenate([np.ones((1, n)), drawn])


@lru_cache(maxsize=64)
def _labels(n: int, m: int, exact: bool, game: int) -> Array:
    """(arrangements, n + m): 1 for the variant, 0 for the baseline, the observed arrangement first."""
    if exact:
        chosen = np.array(list(combinations(range(n + m), n)))
        labels = np.zeros((len(chosen), n + m))
        np.put_along_axis(labels, chosen, 1.0, axis=1)
        return labels
    observed = np.concatenate([np.ones(n), np.zeros(m)])
    drawn = _generator(n, m, game).permuted(np.tile(observed, (ARRANGEMENTS, 1)), axis=1)
    return np.concatenate([observed[None], drawn])


def _generator(n: int, m: int, game: int) -> np.random.Generator:
    return np.random.default_rng([n, m, game])
