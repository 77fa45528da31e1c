"""The difference between two sides of a comparison, its standard error over seeds and references, and the tests that use both.

Runs (training seeds) and references (held-out trajectories) are crossed: every run is scored on the same references. A mean over both has a
variance of three parts, which are estimated from the margins of the table as in a two-way random-effects model (Owen 2007, "The pigeonhole
bootstrap"; Searle, Casella and McCulloch 1992, chapter 4). The parts are runs, references (clustered by the episode from which they were
cut), and their interaction. Both margins contain the interaction, so it is subtracted once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, nan, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.matching import Game
from analysis.runs import MIN_RUNS

Array = NDArray[np.float64]

Random = Literal["seeds", "references", "seeds and references"]
MIN_EPISODES = 5
"""Minimum number of episodes for counting references as random. Fewer say too little about the spread between episodes."""


@dataclass(frozen=True)
class Difference:
    """A mean over games of (variant minus baseline), with its standard error."""

    value: float
    variance: float
    freedom: float
    """Satterthwaite's degrees of freedom of `variance`. If the sides differ in their number of runs, the smallest of any part: with 3 runs
    of a large variance against 10 of a small one, Satterthwaite's estimate gives tests of 8% at a nominal 5%."""
    crossed: bool
    """Whether the variance includes references as well as runs."""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's t interval. Both ends equal the value if nothing varies."""
        reach = self._quantile((1.0 + confidence) / 2.0) * sqrt(self.variance)
        return self.value - reach, self.value + reach

    def p_value(self) -> float:
        """Two-sided p-value of no difference."""
        return 2.0 * self._upper_tail(abs(self.value))

    def p_equivalent(self, margin: float) -> float:
        """p-value of two one-sided tests (Schuirmann 1987): that the difference is at least `margin` in one direction or the other."""
        return max(self._upper_tail(margin - self.value), self._upper_tail(margin + self.value))

    def _upper_tail(self, distance: float) -> float:
        """The probability of a t statistic above `distance` in standard errors."""
        from scipy.special import stdtr  # the function behind scipy.stats.t, without its overhead

        if self.variance <= 0.0:
            return 0.5 if distance == 0.0 else float(distance < 0.0)
        return float(stdtr(min(self.freedom, 1e9), -distance / sqrt(self.variance)))

    def _quantile(self, probability: float) -> float:
        from scipy.special import stdtrit

        return float(stdtrit(min(self.freedom, 1e9), probability))


@dataclass(frozen=True)
class Components:
    """The variance components of the difference in one game, each for one draw: one run, or one episode of references.

    If runs are paired there is one side, the differences of pairs. Otherwise the sides are the variant and the baseline.
    """

    game: str
    runs: tuple[int, ...]
    """Runs of each side."""
    episodes: int
    """Episodes from which the references were cut. 0 if references do not count as random."""
    between_runs: tuple[float, ...]
    """By side, the variance of a run's mean over the references: that of seeds, plus interaction / episodes."""
    between_episodes: float
    """The variance of an episode's mean difference over the runs: that of references, plus each side's interaction / runs."""
    interaction: tuple[float, ...]
    """By side, the variance of one run on one episode that neither the run nor the episode explains."""

    @property
    def seeds(self) -> tuple[float, ...]:
        """By side, the variance over seeds alone, at least 0."""
        cells = max(self.episodes, 1)
        return tuple(max(b - i / cells, 0.0) for b, i in zip(self.between_runs, self.interaction, strict=True))

    @property
    def references(self) -> float:
        """The variance over references alone, at least 0, for one episode."""
        return max(self.between_episodes - sum(i / n for i, n in zip(self.interaction, self.runs, strict=True)), 0.0)

    def at(self, runs: int, episodes: int) -> "Components":
        """The same variances for another number of runs on each side, and of episodes (0: references do not count as random)."""
        between_runs = tuple(s + i / max(episodes, 1) for s, i in zip(self.seeds, self.interaction, strict=True))
        between_episodes = self.references + sum(self.interaction) / runs
        return Components(self.game, (runs,) * len(self.runs), episodes, between_runs, between_episodes, self.interaction)


def difference(games: Sequence[Game], paired: bool) -> Difference:
    """Variant minus baseline: the mean over games of the difference of means. Needs two runs on each side of every game.

    References count as random if every game has references from at least MIN_EPISODES episodes. Otherwise the standard error is that of the
    runs alone and holds only for these references. Games are fixed: the result does not extend to other games.
    """
    value = sum(float(game.variant.mean() - game.baseline.mean()) for game in games) / len(games)
    return from_components(value, variance_components(games, paired))


def variance_components(games: Sequence[Game], paired: bool) -> tuple[Components, ...]:
    """The estimated variance components of the difference in each game. Needs two runs on each side of every game.

    References count as random as in `difference`.
    """
    crossed = all(game.episodes is not None and len(np.unique(game.episodes)) >= MIN_EPISODES for game in games)
    return tuple(_components(game, paired, crossed) for game in games)


def from_components(value: float, components: Sequence[Components]) -> Difference:
    """The difference `value` with the standard error and degrees of freedom that follow from each game's components."""
    parts = [_part(one) for one in components]
    count = len(parts)
    variance = sum(part.variance for part in parts) / count**2
    spread = sum(v**2 / d for part in parts for v, d in part.terms) / count**4
    least = min((d for part in parts for v, d in part.terms if v > 0), default=inf)
    balanced = all(len(set(one.runs)) == 1 for one in components)
    freedom = inf if spread <= 0 else max(variance**2 / spread, least) if balanced else least
    crossed = all(one.episodes > 0 for one in components)
    found = Difference(float(value), float(variance), float(freedom), crossed)
    if not crossed:
        return found
    alone = replace(from_components(value, [replace(one, episodes=0) for one in components]), crossed=True)
    return max(found, alone, key=lambda one: one.interval()[1])  # the wider claim never has the narrower interval


@dataclass(frozen=True)
class _Part:
    """The variance of one game's difference."""

    variance: float
    terms: tuple[tuple[float, int], ...]
    """Estimated variances and their degrees of freedom, for Satterthwaite's formula."""


def _part(one: Components) -> _Part:
    terms = [(variance / n, n - 1) for variance, n in zip(one.between_runs, one.runs, strict=True)]
    runs = sum(v for v, _ in terms)
    if not one.episodes:
        return _Part(runs, tuple(terms))
    references = one.between_episodes / one.episodes
    interaction = sum(i / n for i, n in zip(one.interaction, one.runs, strict=True)) / one.episodes
    terms.append((references, one.episodes - 1))
    return _Part(max(runs + references - interaction, runs, references), tuple(terms))


def _components(game: Game, paired: bool, crossed: bool) -> Components:
    sides = [game.variant - game.baseline] if paired else [game.variant, game.baseline]
    runs = tuple(len(side) for side in sides)
    between_runs = tuple(float(side.mean(axis=1).var(ddof=1)) for side in sides)
    if not crossed:
        return Components(game.name, runs, 0, between_runs, 0.0, (0.0,) * len(sides))
    assert game.episodes is not None
    weights = np.bincount(game.episodes) / len(game.episodes)
    clustered = [_by_episode(side, game.episodes) for side in sides]
    episodes = len(weights)
    references = _between_episodes(clustered[0].mean(axis=0) - (0.0 if paired else clustered[1].mean(axis=0)), weights)
    interaction = tuple(_interaction(side, weights) * len(side) * episodes for side in clustered)
    return Components(game.name, runs, episodes, between_runs, references * episodes, interaction)


def _by_episode(side: Array, episodes: NDArray[np.int64]) -> Array:
    """(runs, episodes): the mean over the references of each episode."""
    return np.stack([np.bincount(episodes, run) for run in side]) / np.bincount(episodes)


def _between_episodes(per_episode: Array, weights: Array) -> float:
    """The variance of the weighted mean over episodes."""
    episodes = len(weights)
    return float(weights**2 @ (per_episode - weights @ per_episode) ** 2) * episodes / (episodes - 1)


def _interaction(clustered: Array, weights: Array) -> float:
    """The share of the mean's variance that comes from runs and episodes together."""
    runs, episodes = clustered.shape
    by_run = clustered @ weights
    rest = clustered - by_run[:, None] - clustered.mean(axis=0) + by_run.mean()
    return float((rest**2 @ weights**2).sum() / runs**2 * runs / (runs - 1) * episodes / (episodes - 1))


def mean(values: Array, episodes: NDArray[np.int64]) -> tuple[Difference, Random] | None:
    """The mean of values (runs, references) with its standard error, and the random factors. None if nothing counts as random.

    Runs count from MIN_RUNS on, references from MIN_EPISODES episodes on. `episodes` (references,) numbers the episodes from 0.
    """
    enough = len(np.unique(episodes)) >= MIN_EPISODES
    if len(values) >= MIN_RUNS:
        found = difference([Game("", values, np.zeros_like(values), episodes)], paired=True)
        return found, "seeds and references" if found.crossed else "seeds"
    if not enough:
        return None
    weights = np.bincount(episodes) / len(episodes)
    per_episode = _by_episode(values.mean(axis=0, keepdims=True), episodes)[0]
    spread = _between_episodes(per_episode, weights)
    return Difference(float(values.mean()), spread, len(weights) - 1, crossed=False), "references"


G_S, G_AV = "g_s", "g_av"
"""Names of the standardised effects of independent and of paired runs (Lakens 2013, Frontiers in Psychology 4:863)."""


def effect_name(paired: bool) -> str:
    """The effect that `standardised` returns: g_av for paired runs, g_s for independent ones."""
    return G_AV if paired else G_S


def standardised(games: Sequence[Game], paired: bool) -> list[float]:
    """Hedges' g of each game: the difference over a standard deviation between runs, corrected for few runs (Hedges 1981).

    The names are those of Lakens (2013). g_s, for independent runs: the standard deviation is pooled over both sides (n1 + n2 - 2 degrees
    of freedom). g_av, for n pairs: it is the mean of the two sides' standard deviations (n - 1 degrees of freedom). Both standard
    deviations are those of runs, so the two effects share one unit. NaN if runs do not vary or a side has one run.
    """
    found = []
    for game in games:
        a, b = game.variant.mean(axis=1), game.baseline.mean(axis=1)
        if min(len(a), len(b)) < 2:
            found.append(nan)
            continue
        if paired:
            freedom, spread = len(a) - 1, (a.std(ddof=1) + b.std(ddof=1)) / 2
        else:
            freedom = len(a) + len(b) - 2
            spread = sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / freedom)
        largest = max(np.abs(a).max(), np.abs(b).max())
        found.append(float((a.mean() - b.mean()) / spread * _few_runs(freedom)) if _varies(spread, largest) else nan)
    return found


def standardised_change(games: Sequence[Game]) -> list[float]:
    """g_z of each game of paired runs (Lakens 2013): the mean difference over the standard deviation of the differences, corrected for few
    runs. It measures how consistent the difference is over runs. NaN if differences do not vary or there is only one pair."""
    found = []
    for game in games:
        change = game.variant.mean(axis=1) - game.baseline.mean(axis=1)
        spread = change.std(ddof=1) if len(change) > 1 else 0.0
        found.append(float(change.mean() / spread * _few_runs(len(change) - 1)) if _varies(spread, np.abs(change).max()) else nan)
    return found


def _varies(spread: float, largest: float) -> bool:
    """Whether a standard deviation exceeds the rounding error of equal numbers, whose largest is given."""
    return spread > 1e-12 * largest


def _few_runs(freedom: int) -> float:
    """Hedges' correction for these degrees of freedom."""
    return 1.0 - 3.0 / (4.0 * freedom - 1.0)
