"""How well predicted classes, such as the sign of a reward or the end of a game, agree with what happened. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10
"""Bins of equal width of the calibration error."""


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class over N predictions."""

    precision: float
    """Share of the predictions of this class that were right. NaN if it was never predicted."""
    recall: float
    """Share of the class's occurrences that were predicted. NaN if it never occurred."""
    calibration_error: float
    """Mean absolute difference, over predictions, of the mean probability in a bin from the class's frequency there (expected calibration
    error). NaN without predictions."""
    occurrences: int


def class_scores(probabilities: ArrayLike, truth: ArrayLike) -> list[ClassScores]:
    """Scores of each of K classes. A prediction is the most probable class, the first of equal ones.

    Args:
        probabilities: (N, K), each row sums to 1.
        truth: the class that occurred, (N,) from 0 to K - 1.

    Raises ValueError for other shapes or probabilities.
    """
    p, occurred = np.asarray(probabilities, np.float64), np.asarray(truth)
    if p.ndim != 2 or occurred.shape != p.shape[:1]:
        raise ValueError(f"scores of classes need probabilities (N, K) and N classes, got shapes {p.shape} and {occurred.shape}")
    if len(p) and not (p.min() >= 0 and np.allclose(p.sum(axis=1), 1, atol=1e-4)):
        raise ValueError("scores of classes need probabilities that sum to 1")
    predicted = p.argmax(axis=1)
    return [_scores(p[:, k], predicted == k, occurred == k) for k in range(p.shape[1])]


def _scores(probability: NDArray[np.float64], predicted: NDArray[np.bool_], occurred: NDArray[np.bool_]) -> ClassScores:
    both = int((predicted & occurred).sum())
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, probability - occurred, minlength=BINS)
    return ClassScores(
        both / predicted.sum() if predicted.any() else np.nan,
        both / occurred.sum() if occurred.any() else np.nan,
        float(np.abs(gaps).sum() / len(probability)) if len(probability) else np.nan,
        int(occurred.sum()),
    )


def before_end(ends: ArrayLike) -> NDArray[np.bool_]:
    """The steps of plays up to their first end, that one included: flags (n, T) -> (n, T)."""
    flags = np.asarray(ends, bool)
    earlier = np.pad(np.cumsum(flags, axis=1), ((0, 0), (1, 0)))[:, :-1]
    return np.asarray(earlier == 0)


def parts_of(length: int, most: int = 10) -> Sequence[NDArray[np.int64]]:
    """The steps 0, ..., length - 1 in consecutive parts of about equal length."""
    return np.array_split(np.arange(length), min(most, length))
