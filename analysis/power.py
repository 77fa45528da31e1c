"""The size of the differences that further seeds and references would detect, from the variance components of finished runs.

The observed difference is not used: power computed from it ("observed power") only restates the p-value (Hoenig and Heisey 2001, The
American Statistician 55(1)). Each variance is taken at its upper confidence limit, not its estimate, since a few runs estimate it poorly
(Browne 1995, Statistics in Medicine 14(17)). The assumptions are normal means over runs and references, and fixed games.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, sqrt

import numpy as np

from analysis.differences import Components, Difference, from_components, variance_components
from analysis.matching import Game
from analysis.multiplicity import attainable_level
from analysis.runs import MIN_RUNS

POWER = 0.8
"""The probability with which a test should detect a difference."""
CONFIDENCE = 0.8
"""Confidence of the upper limit at which each variance is taken."""
MAX_SEEDS = 1000
"""Maximum number of seeds in a search."""
_LARGE = 1e6
"""Degrees of freedom from which Student's t counts as normal."""
_POINTS = 2000


@dataclass(frozen=True)
class Planner:
    """One comparison, with its variances at their upper limits. `times` multiplies each game's episodes of references."""

    estimated: tuple[Components, ...]
    """By game, the estimated variance components."""
    upper: tuple[Components, ...]
    """The same at their upper confidence limits."""
    paired: bool
    level: float
    """Two-sided level of the test of no difference, after the correction for the number of comparisons."""
    equivalence_level: float
    """Level of each of the two one-sided tests of equivalence."""
    permutation: bool
    """Whether the permutation test must reject too. It then limits the level to the p-values that are possible with so few runs."""

    @property
    def runs(self) -> int:
        """Runs of the side and game with the fewest."""
        return min(n for one in self.estimated for n in one.runs)

    @property
    def episodes(self) -> int:
        """Episodes of the game with the fewest. 0 if references do not count as random."""
        return min(one.episodes for one in self.estimated)

    def detectable(self, seeds: int, times: int = 1) -> float:
        """The minimum detectable effect (MDE): the true difference that the test detects with probability POWER.

        `seeds` is the number of runs on each side of every game. Infinite if the test can never reject.
        """
        level = self._attainable(self.level, seeds, two_sided=True)
        if level <= 0.0:
            return inf
        planned = self._difference(seeds, times)
        return noncentrality(planned.freedom, level) * sqrt(planned.variance) if planned.variance > 0 else 0.0

    def equivalence_power(self, margin: float, seeds: int, times: int = 1) -> float:
        """The probability that both one-sided tests (TOST) succeed if the true difference is 0."""
        from scipy.special import chdtri, ndtr, stdtrit

        level = self._attainable(self.equivalence_level, seeds, two_sided=False)
        if level <= 0.0:
            return 0.0
        planned = self._difference(seeds, times)
        if planned.variance <= 0.0:
            return 1.0
        freedom = min(planned.freedom, _LARGE)
        shares = (np.arange(_POINTS) + 0.5) / _POINTS
        estimated = np.sqrt(chdtri(freedom, shares) / freedom)  # quantiles of the estimated over the true standard error
        room = margin / sqrt(planned.variance) - float(stdtrit(freedom, 1.0 - level)) * estimated
        return float(np.mean(np.maximum(2.0 * ndtr(room) - 1.0, 0.0)))

    def seeds_to_detect(self, difference: float, times: int = 1) -> int | None:
        """The smallest number of seeds whose MDE is at most `difference`. None if more than MAX_SEEDS are needed."""
        return _fewest(lambda seeds: self.detectable(seeds, times) <= difference)

    def seeds_for_equivalence(self, margin: float, times: int = 1) -> int | None:
        """The smallest number of seeds with which TOST succeeds with probability POWER if the true difference is 0.

        None if more than MAX_SEEDS are needed.
        """
        return _fewest(lambda seeds: self.equivalence_power(margin, seeds, times) >= POWER)

    def smallest_seeds(self) -> int | None:
        """The smallest number of seeds with which the test can reject at all, however large the difference is."""
        return _fewest(lambda seeds: self._attainable(self.level, seeds, two_sided=True) > 0.0)

    def _attainable(self, level: float, seeds: int, two_sided: bool) -> float:
        counts = [(seeds, seeds)] * len(self.estimated)
        return attainable_level(level, counts, self.paired, two_sided) if self.permutation else level

    def _difference(self, seeds: int, times: int) -> Difference:
        return from_components(0.0, [one.at(seeds, one.episodes * times) for one in self.upper])


def planner(games: Sequence[Game], paired: bool, level: float, equivalence_level: float = 0.05, permutation: bool = True) -> Planner:
    """Plans from the finished runs of one comparison. Raises ValueError for a game with fewer than MIN_RUNS runs on a side."""
    fewest = min((len(side) for game in games for side in (game.variant, game.baseline)), default=0)
    if fewest < MIN_RUNS:
        raise ValueError(f"expected at least {MIN_RUNS} runs on each side of every game, got {fewest}")
    estimated = variance_components(games, paired)
    return Planner(estimated, upper_limits(estimated), paired, level, equivalence_level, permutation)


def upper_limits(components: Sequence[Components], confidence: float = CONFIDENCE) -> tuple[Components, ...]:
    """Each variance at its upper confidence limit, freedom x estimate / (chi-square quantile at 1 - confidence).

    The three variances (of runs, of episodes, of both together) are pooled over games, since only their sums enter the mean over games.
    Their degrees of freedom are Satterthwaite's. The limits of the first two are taken before the interaction is subtracted, so a
    component that is estimated as 0 mostly has a limit above 0.
    """
    runs = _inflation([(v, n - 1) for one in components for v, n in zip(one.between_runs, one.runs, strict=True)], confidence)
    episodes = _inflation([(one.between_episodes, one.episodes - 1) for one in components if one.episodes], confidence)
    cells = [
        (i, (n - 1) * (one.episodes - 1)) for one in components if one.episodes for i, n in zip(one.interaction, one.runs, strict=True)
    ]
    both = _inflation(cells, confidence)
    found = []
    for one in components:
        raised = replace(one, between_runs=tuple(v * runs for v in one.between_runs), between_episodes=one.between_episodes * episodes)
        interaction = tuple(i * both for i in one.interaction)
        seeds = tuple(s + i / max(one.episodes, 1) for s, i in zip(raised.seeds, interaction, strict=True))
        references = raised.references + sum(i / n for i, n in zip(interaction, one.runs, strict=True))
        found.append(replace(one, between_runs=seeds, between_episodes=references, interaction=interaction))
    return tuple(found)


def _inflation(terms: Sequence[tuple[float, int]], confidence: float) -> float:
    """The upper confidence limit of a sum of variances (estimate, degrees of freedom), over its estimate."""
    from scipy.special import chdtri

    total, spread = sum(v for v, _ in terms), sum(v**2 / d for v, d in terms)
    if spread <= 0.0:
        return 1.0
    freedom = total**2 / spread
    return float(freedom / chdtri(freedom, confidence))


@lru_cache(maxsize=1024)
def noncentrality(freedom: float, level: float, power: float = POWER) -> float:
    """The true difference, in standard errors, that a two-sided t test of this level detects with probability `power`."""
    from scipy.optimize import brentq
    from scipy.special import nctdtr, ndtr, stdtrit

    normal = freedom > _LARGE
    reach = float(stdtrit(min(freedom, _LARGE), 1.0 - level / 2.0))

    def excess(distance: float) -> float:
        below = float(ndtr(reach - distance) if normal else nctdtr(freedom, distance, reach))
        return 1.0 - below - power  # a significant difference of the wrong sign detects nothing

    highest = reach + 10.0
    while excess(highest) < 0.0:
        highest *= 2.0
    return float(brentq(excess, 0.0, highest, xtol=1e-9))


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest number of seeds from MIN_RUNS to MAX_SEEDS that is enough, if every larger one is enough too, or None."""
    low, high = MIN_RUNS - 1, MIN_RUNS
    while not enough(high):
        if high == MAX_SEEDS:
            return None
        low, high = high, min(2 * high, MAX_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
