"""Holm's correction, and the smallest p-value that is possible with a number of runs. Plain Python, because planning uses it and imports no
numpy."""

from collections.abc import Sequence
from math import comb, floor, isnan, nan, prod

EXACT = 2**16
"""Maximum number of arrangements of a permutation test that are all tried."""
ARRANGEMENTS = 9_999
"""Number of drawn arrangements if there are more. It includes the observed one."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979). NaN stays NaN but counts as a test, so that a test that is not possible yet relaxes nothing."""
    filled = [1.0 if isnan(p) else p for p in p_values]
    corrected, highest = [nan] * len(filled), 0.0
    for rank, i in enumerate(sorted(range(len(filled)), key=lambda i: filled[i])):
        highest = max(highest, min(1.0, (len(filled) - rank) * filled[i]))
        corrected[i] = nan if isnan(p_values[i]) else highest
    return corrected


def smallest_p(runs: Sequence[tuple[int, int]], paired: bool, two_sided: bool = True) -> float:
    """The smallest p-value of the permutation test of `analysis.comparison`, before correction.

    `runs`: (runs of the variant, of the baseline) in each game. If runs are paired, the signs of the smaller number's differences are
    flipped. Otherwise labels are exchanged within games.
    """
    step, mirrored = _step(runs, paired)
    return (2.0 if mirrored and two_sided else 1.0) * step


def attainable_level(level: float, runs: Sequence[tuple[int, int]], paired: bool, two_sided: bool = True) -> float:
    """The largest p-value of the permutation test that is at most `level`, for these runs in each game, or 0 if there is none.

    p-values are multiples of one over the number of arrangements. Two-sided ones are multiples of two over it if both sides have equal
    numbers of runs, since each arrangement then has its mirror image.
    """
    step = smallest_p(runs, paired, two_sided)
    return floor(level / step * (1.0 + 1e-9)) * step


def _step(runs: Sequence[tuple[int, int]], paired: bool) -> tuple[float, bool]:
    """One over the number of arrangements (of those tried), and whether each has its mirror image among them."""
    if paired:
        count, mirrored = 2 ** sum(min(pair) for pair in runs), True
    else:
        count, mirrored = prod(comb(a + b, a) for a, b in runs), all(a == b for a, b in runs)
    return (1.0 / (1.0 + ARRANGEMENTS), False) if count > EXACT else (1.0 / count, mirrored)
