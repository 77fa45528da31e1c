"""Scores that a perfect sampler of the future minimises in expectation, and rank histograms. Numpy and scipy only.

All compare K samples of the future with the true one. Pixel errors are not proper: a blur or a copy may have a smaller error than a sampler
of the true distribution.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def energy_score(to_truth: ArrayLike, between: ArrayLike) -> Array:
    """The fair energy score 1/K sum |x_i - y| - 1/(2 K (K - 1)) sum_{i != j} |x_i - x_j| of K samples x and the truth y. Lower is better.

    to_truth (..., K): distances |x_i - y|. between (..., K, K): distances |x_i - x_j| of all ordered pairs -> (...). "Fair" means that its
    expectation does not depend on K (Ferro 2014). Gneiting and Raftery (2007) define the score itself. The score of equal samples is their
    distance to the truth. May be negative. Raises ValueError for other shapes or K below 2.
    """
    x, pairs = np.asarray(to_truth, np.float64), np.asarray(between, np.float64)
    k = x.shape[-1] if x.ndim else 0
    if k < 2 or pairs.shape != (*x.shape, k):
        raise ValueError(f"expected distances (..., K >= 2) and (..., K, K), got {x.shape} and {pairs.shape}")
    return np.asarray(x.mean(axis=-1) - pairs.sum(axis=(-2, -1)) / (2 * k * (k - 1)))


def crps(samples: ArrayLike, truth: ArrayLike) -> Array:
    """The fair continuous ranked probability score, the energy score of scalars. samples (..., K), truth (...) -> (...), in their unit."""
    x, y = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
    return energy_score(np.abs(x - y[..., None]), np.abs(x[..., :, None] - x[..., None, :]))


def ranks(samples: ArrayLike, truth: ArrayLike, generator: np.random.Generator) -> NDArray[np.int64]:
    """Number of the K samples below the truth, 0 to K. samples (..., K), truth (...) -> (...).

    A rank among equal values is drawn by `generator`, so that a perfect sampler has uniform ranks even for quantities that often tie.
    """
    x, y = np.asarray(samples), np.asarray(truth)[..., None]
    below, equal = (x < y).sum(axis=-1), (x == y).sum(axis=-1)
    return np.asarray(below + generator.integers(0, equal, endpoint=True), np.int64)


def rank_shares(counts: ArrayLike) -> Array:
    """The mean of the starts' histograms: counts (starts, K + 1) -> shares (K + 1,). All starts have equal weights.

    Starts without counts are left out. NaN if no start has any.
    """
    found: NDArray[Any] = np.asarray(counts, np.float64)
    totals = found.sum(axis=1, keepdims=True)
    known = totals[:, 0] > 0
    return np.asarray((found[known] / totals[known]).mean(axis=0)) if known.any() else np.full(found.shape[1], np.nan)


def rank_deviation(counts: ArrayLike) -> float:
    """Total variation distance, 0 to 1, of a histogram of ranks (K + 1 bins, counts or shares) from the uniform one. NaN without counts."""
    shares: NDArray[Any] = np.asarray(counts, np.float64)
    total = shares.sum()
    return float(np.abs(shares / total - 1 / len(shares)).sum() / 2) if total else float("nan")


def expected_rank_deviation(num_ranks: int, k: int) -> float:
    """The mean of `rank_deviation` over `num_ranks` independent, uniform ranks among K samples: the deviation by chance alone.

    A bin contains a binomial number B of n ranks with p = 1 / (K + 1). The mean of |B - np| is 2 m (1 - p) P(B = m) with m = floor(np) + 1
    (de Moivre; Diaconis and Zabell 1991). Ranks that depend on each other within a start, averaged over n independent starts, deviate by at
    most this in expectation (Jensen's inequality). Raises ValueError for fewer than one rank or sample.
    """
    from scipy.stats import binom

    _check_ranks(num_ranks, k)
    p = 1 / (k + 1)
    m = num_ranks // (k + 1) + 1
    return float((k + 1) * m * (1 - p) * binom.pmf(m, num_ranks, p) / num_ranks)


def uniform_band(num_ranks: int, k: int) -> tuple[float, float]:
    """The range that contains the height of one bin of a histogram of `num_ranks` independent, uniform ranks in at least 95% of cases. 1 is
    uniform.

    Raises ValueError for fewer than one rank or sample.
    """
    from scipy.stats import binom

    _check_ranks(num_ranks, k)
    low, high = binom.ppf([0.025, 0.975], num_ranks, 1 / (k + 1)) * (k + 1) / num_ranks
    return float(low), float(high)


def _check_ranks(num_ranks: int, k: int) -> None:
    if num_ranks < 1 or k < 1:
        raise ValueError(f"expected at least one rank and one sample, got {num_ranks} and {k}")
