"""Holm's correction, and the smallest p-value that a number of runs can have. Plain Python: planning asks too, and imports no numpy."""

from collections.abc import Sequence
from math import comb, isnan, nan, prod

EXACT = 2**16
"""Arrangements of a permutation test: up to so many are all tried."""
ARRANGEMENTS = 9_999
"""Drawn where there are more; the observed one is counted in."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm (1979), step down. NaN stays NaN but counts as a test: what could not be tested yet loosens nothing."""
    filled = [1.0 if isnan(p) else p for p in p_values]
    corrected, highest = [nan] * len(filled), 0.0
    for rank, i in enumerate(sorted(range(len(filled)), key=lambda i: filled[i])):
        highest = max(highest, min(1.0, (len(filled) - rank) * filled[i]))
        corrected[i] = nan if isnan(p_values[i]) else highest
    return corrected


def smallest_p(runs: Sequence[tuple[int, int]], paired: bool, two_sided: bool = True) -> float:
    """The least p-value of the permutation test of `analysis.comparison`, before correction.

    `runs`: (runs of the variant, of the baseline) in each game. Where runs are paired, the signs of the smaller number's differences are
    flipped; else labels are exchanged within games.
    """
    if paired:
        count, mirrored = 2 ** sum(min(pair) for pair in runs), True
    else:
        count, mirrored = prod(comb(a + b, a) for a, b in runs), all(a == b for a, b in runs)
    if count > EXACT:
        return 1.0 / (1.0 + ARRANGEMENTS)
    return (2.0 if mirrored and two_sided else 1.0) / count
