"""Aggregates of human-normalised scores over runs and games, with stratified-bootstrap intervals (Agarwal et al. 2021).

Point estimates are rliable's own. Its bootstrap calls Python code for every replicate, which takes minutes for many runs. So intervals are
computed here for many replicates at once, from the same draws as rliable's after `numpy.random.seed(seed)`, but with a separate generator.
For one seed the intervals equal rliable's up to rounding, and numpy's global state is not touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.runs import MIN_RUNS as MIN_RUNS

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

AGGREGATES = ("mean", "median", "iqm", "optimality_gap", "superhuman")
CORRECTED = AGGREGATES[:4]
"""Aggregates with a corrected interval. `superhuman` is a count of games with few possible values, which no standard error describes."""

REPLICATES = 2000
_BLOCK = 50_000
"""Numbers resampled at once. Blocks that stay in the processor's cache are fastest, and memory does not grow with the replicates."""

_SORTED = 1024
"""Maximum number of values that numpy sorts faster than it partitions."""

_SUPERHUMAN = 1.0 - 1e-9
"""At least human, with a tolerance for rounding: IRIS's Pong is exactly human (README of analysis/published)."""


class ScoreError(ValueError):
    """An aggregate that cannot be computed correctly. The message names the data and what it lacks."""


@dataclass(frozen=True)
class Profile:
    """Performance profile: share of runs x games with a score above each tau, and its band; each array (taus,)."""

    taus: Array
    share: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """An aggregate over the training with its band; each array (frames,)."""

    value: Array
    low: Array
    high: Array


def point_estimates(matrix: ArrayLike) -> dict[str, float]:
    """AGGREGATES of HNS (runs, games), or (runs, games, episodes), whose episodes are averaged first.

    `mean`, `iqm` (middle half of all runs x games) and `optimality_gap` (1 - mean of min(HNS, 1)) are over runs x games, `median` is over
    games of their means, and `superhuman` is the number of games whose mean is at least 1. For one number per game, a matrix (1, games),
    `iqm` is the IQM of means, which differs from that of runs. Raises ScoreError for another shape, and for a value that is not finite.
    """
    from rliable import metrics

    runs = _run_means(_checked(matrix, (2, 3)))
    values = {
        "mean": metrics.aggregate_mean(runs),
        "median": metrics.aggregate_median(runs),
        "iqm": metrics.aggregate_iqm(runs),
        "optimality_gap": metrics.aggregate_optimality_gap(runs),
        "superhuman": (runs.mean(axis=0) >= _SUPERHUMAN).sum(),
    }
    return {name: float(values[name]) for name in AGGREGATES}


def intervals(matrix: ArrayLike, seed: int, replicates: int = REPLICATES, confidence: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile interval (low, high) of each of AGGREGATES, for HNS (runs, games) or (runs, games, episodes).

    Runs are resampled within each game and, if there are episodes, then the episodes of each drawn run. Raises ScoreError below MIN_RUNS
    runs.
    """
    scores = _with_spread(_checked(matrix, (2, 3)), "an interval")
    _check_settings(seed, replicates, confidence)
    blocks = [aggregate(block) for block in _resampled(scores, seed, replicates)]
    ends = _percentiles(np.concatenate(blocks), confidence)
    return {name: (float(ends[0, i]), float(ends[1, i])) for i, name in enumerate(AGGREGATES)}


def corrected_intervals(
    matrix: ArrayLike, seed: int, replicates: int = REPLICATES, confidence: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Interval (low, high) of each of CORRECTED for HNS (runs, games), corrected for the number of runs.

    A percentile interval of few runs is too narrow: resampled deviations are too small by sqrt((n - 1) / n), and normal quantiles ignore
    that the spread itself is estimated (Hesterberg 2015, section 5.3). This interval is the estimate plus and minus Student's t times the
    bootstrap's standard error, scaled by sqrt(n / (n - 1)). The degrees of freedom are Satterthwaite's, from each game's share of the
    variance. The gap's interval is clipped at 0. An aggregate that is the same in all resamples has no entry. Raises ScoreError below
    MIN_RUNS runs.
    """
    scores = _with_spread(_checked(matrix, (2,)), "an interval")
    _check_settings(seed, replicates, confidence)
    blocks = [(aggregate(block), block.mean(axis=1)) for block in _resampled(scores, seed, replicates)]
    values, by_game = (np.concatenate(parts)[None] for parts in zip(*blocks, strict=True))
    low, high = student_ends(scores[None], values[..., : len(CORRECTED)], by_game, confidence)
    return {name: (float(low[0, i]), float(high[0, i])) for i, name in enumerate(CORRECTED) if low[0, i] < high[0, i]}


def student_ends(scores: Array, values: Array, by_game: Array, confidence: float) -> tuple[Array, Array]:
    """Ends (sets, CORRECTED) of the corrected intervals of many sets of scores (sets, runs, games) at once.

    `values` (sets, replicates, CORRECTED) are the aggregates of resamples, `by_game` (sets, replicates, games) their means of games.
    """
    from scipy.special import stdtrit

    runs = scores.shape[1]
    estimate = aggregate(scores)[:, : len(CORRECTED)]
    error = values.std(axis=1, ddof=1) * np.sqrt(runs / (runs - 1.0))
    reach = stdtrit(_freedom(scores, by_game), 0.5 + confidence / 2.0) * error
    low, high = estimate - reach, estimate + reach
    gap = CORRECTED.index("optimality_gap")
    low[:, gap] = np.maximum(low[:, gap], 0.0)
    return low, high


def _freedom(scores: Array, by_game: Array) -> Array:
    """Satterthwaite's degrees of freedom (sets, CORRECTED), from the variance that each game's runs contribute to each aggregate.

    The influence values of the mean are the scores, those of the IQM the scores winsorised where it trims, and those of the gap the scores
    clipped at 1. Those of the median are the scores of a game, weighted by how often the game's mean is in the middle of a resample.
    """
    _, runs, games = scores.shape
    size, cut = runs * games, int(0.25 * runs * games)
    ordered = np.sort(scores.reshape(len(scores), size), axis=1)
    ends = ordered[:, [cut, size - cut - 1], None, None]
    order = np.argsort(by_game, axis=2)
    middle = np.stack([order[:, :, (games - 1) // 2], order[:, :, games // 2]])  # (2, sets, replicates)
    weight = (middle[..., None] == np.arange(games)).mean(axis=(0, 2)) if games > 1 else np.ones((len(scores), 1))
    parts = {
        "mean": scores.var(axis=1, ddof=1) / games**2,
        "median": weight**2 * scores.var(axis=1, ddof=1),
        "iqm": np.clip(scores, ends[:, 0], ends[:, 1]).var(axis=1, ddof=1),
        "optimality_gap": np.minimum(scores, 1.0).var(axis=1, ddof=1),
    }
    variance = np.stack([parts[name] for name in CORRECTED], axis=1)  # (sets, CORRECTED, games), up to a factor of each aggregate
    squares = (variance**2).sum(axis=2)
    freedom = (runs - 1.0) * np.divide(variance.sum(axis=2) ** 2, squares, out=np.ones_like(squares), where=squares > 0)
    return np.asarray(freedom, dtype=np.float64)


def performance_profile(matrix: ArrayLike, taus: ArrayLike, seed: int, replicates: int = REPLICATES, confidence: float = 0.95) -> Profile:
    """Share of runs x games above each tau (ascending, HNS) with its pointwise band, for HNS (runs, games).

    Raises ScoreError below MIN_RUNS runs. `profile_shares` works without a band.
    """
    scores = _with_spread(_checked(matrix, (2,)), "the band of a profile")
    thresholds = _rising(taus)
    _check_settings(seed, replicates, confidence)
    # A score is above exactly the thresholds before its place among them, so counting places gives the answers for all taus at once.
    places = np.searchsorted(thresholds, scores, side="left")
    size, bins = scores.size, len(thresholds) + 1
    shares = []
    for drawn in _draws(scores.shape, seed, replicates):
        flat = places[drawn, np.arange(scores.shape[1])].reshape(len(drawn), size)
        counts = np.bincount((flat + np.arange(len(drawn))[:, None] * bins).ravel(), minlength=len(drawn) * bins)
        above = counts.reshape(len(drawn), bins)[:, ::-1].cumsum(axis=1)[:, -2::-1]
        shares.append(above / size)
    low, high = _percentiles(np.concatenate(shares), confidence)
    return Profile(thresholds, profile_shares(scores, thresholds), low, high)


def profile_shares(matrix: ArrayLike, taus: ArrayLike) -> Array:
    """The profile without its band, (taus,), for HNS (runs, games) of any number of runs."""
    scores, thresholds = np.sort(_checked(matrix, (2,)), axis=None), _rising(taus)
    return 1.0 - np.searchsorted(scores, thresholds, side="right") / scores.size


def probability_of_improvement(x: ArrayLike, y: ArrayLike, seed: int, replicates: int = REPLICATES, confidence: float = 0.95) -> Estimate:
    """Probability that a run of x scores above a run of y in a game, ties counted half, averaged over games, with its percentile interval.

    x (runs, games) and y (other runs, the same games) have the games in the same order. It is Mann-Whitney's U over the number of pairs,
    from the ranks of all runs of a game, which are computed once for all replicates. Raises ScoreError below MIN_RUNS runs on a side.
    """
    a, b = _two_sides(x, y)
    _with_spread(a, "an interval"), _with_spread(b, "an interval")
    _check_settings(seed, replicates, confidence)
    ranks_a, ranks_b = joint_ranks(a, b)
    games = np.arange(a.shape[1])
    values = [
        ranked_wins(ranks_a[drawn_a, games], ranks_b[drawn_b, games]).mean(axis=1)
        for drawn_a, drawn_b in _paired_draws(a.shape, b.shape, seed, replicates)
    ]
    low, high = _percentiles(np.concatenate(values), confidence)
    return Estimate(improvement(a, b), float(low), float(high))


def improvement(x: ArrayLike, y: ArrayLike) -> float:
    """The probability of improvement without its interval, for any number of runs on either side."""
    a, b = _two_sides(x, y)
    ranks_a, ranks_b = joint_ranks(a, b)
    return float(ranked_wins(ranks_a[None], ranks_b[None]).mean())


def sample_efficiency(curves: ArrayLike, seed: int, replicates: int = REPLICATES, confidence: float = 0.95) -> Curve:
    """IQM of HNS curves (runs, games, frames) at each frame, with its pointwise band. Whole runs are resampled within games.

    Raises ScoreError below MIN_RUNS runs, and if a curve has a gap (a value that is not finite).
    """
    scores = _with_spread(_checked(curves, (3,)), "the band of a curve")
    _check_settings(seed, replicates, confidence)
    runs, games, frames = scores.shape
    values = []
    for drawn in _draws((runs, games), seed, replicates, scores.size):
        values.append(_iqm(np.moveaxis(scores[drawn, np.arange(games)], 3, 1).reshape(len(drawn), frames, runs * games)))
    low, high = _percentiles(np.concatenate(values), confidence)
    return Curve(iqm_curve(scores), low, high)


def iqm_curve(curves: ArrayLike) -> Array:
    """The IQM of HNS curves (runs, games, frames) at each frame without its band, (frames,), for any number of runs."""
    scores = _checked(curves, (3,))
    runs, games, frames = scores.shape
    return _iqm(np.moveaxis(scores, 2, 0).reshape(frames, runs * games))


def joint_ranks(x: Array, y: Array) -> tuple[Indices, Indices]:
    """Dense ranks from 0 of x (runs, games) and y (runs', games) among both, in each game. Equal values share a rank."""
    both = np.concatenate([x, y])
    ranks = np.stack([np.unique(both[:, g], return_inverse=True)[1] for g in range(both.shape[1])], axis=1)
    return ranks[: len(x)], ranks[len(x) :]


def ranked_wins(x: Indices, y: Indices) -> Array:
    """(replicates, games): share of pairs with x above y, ties counted half, for joint ranks (replicates, runs, games).

    It counts ranks and not pairs, so its time grows with the sum of both sides' runs, not with their product.
    """
    ranks = int(max(x.max(), y.max())) + 1
    of_x, of_y = _histogram(x, ranks), _histogram(y, ranks)
    below = of_y.cumsum(axis=2) - 0.5 * of_y
    won: Array = (of_x * below).sum(axis=2) / (x.shape[1] * y.shape[1])
    return won


def aggregate(runs: Array) -> Array:
    """AGGREGATES of many sets of scores at once: (sets, runs, games) -> (sets, AGGREGATES)."""
    by_game, flat = runs.mean(axis=1), runs.reshape(len(runs), -1)
    columns = {
        "mean": by_game.mean(axis=1),
        "median": np.median(by_game, axis=1),
        "iqm": _iqm(flat),
        "optimality_gap": 1.0 - np.minimum(flat, 1.0).mean(axis=1),
        "superhuman": (by_game >= _SUPERHUMAN).sum(axis=1),
    }
    return np.stack([columns[name] for name in AGGREGATES], axis=1)


def _iqm(values: Array) -> Array:
    """Mean of the middle half along the last axis. A fractional quarter is rounded down, as in scipy's trim_mean."""
    size = values.shape[-1]
    cut = int(0.25 * size)
    ends = (cut, size - cut - 1)
    ordered = np.partition(values, ends, axis=-1) if size > _SORTED else np.sort(values, axis=-1)
    means: Array = ordered[..., cut : size - cut].mean(axis=-1)
    return means


def _draws(shape: tuple[int, ...], seed: int, replicates: int, size: int | None = None) -> Iterator[Indices]:
    """Blocks (b, runs, games) of drawn runs, stratified by game, in the stream of rliable's StratifiedBootstrap."""
    generator = np.random.RandomState(seed)
    for first in range(0, replicates, step := _step(size or int(np.prod(shape)))):
        yield generator.choice(shape[0], (min(step, replicates - first), *shape), replace=True)


def _paired_draws(shape_x: tuple[int, ...], shape_y: tuple[int, ...], seed: int, replicates: int) -> Iterator[tuple[Indices, Indices]]:
    """Blocks of draws for both sides, alternating, in the stream of rliable's StratifiedIndependentBootstrap."""
    generator = np.random.RandomState(seed)
    for first in range(0, replicates, step := _step(int(np.prod(shape_x) + np.prod(shape_y)))):
        drawn = [
            (generator.choice(shape_x[0], shape_x), generator.choice(shape_y[0], shape_y))
            for _ in range(first, min(first + step, replicates))
        ]
        yield np.stack([x for x, _ in drawn]), np.stack([y for _, y in drawn])


def _resampled(scores: Array, seed: int, replicates: int) -> Iterator[Array]:
    """Blocks (b, runs, games) of resampled scores. For (runs, games, episodes), each drawn run's mean over episodes drawn from it."""
    games = np.arange(scores.shape[1])
    episodes = np.random.RandomState([seed, 1])  # a separate stream, so that the same runs are drawn with and without episodes
    for drawn in _draws(scores.shape[:2], seed, replicates, scores.size):
        if scores.ndim == 2:
            yield scores[drawn, games]
        else:
            inside = episodes.randint(scores.shape[2], size=(*drawn.shape, scores.shape[2]))
            yield scores[drawn[..., None], games[:, None], inside].mean(axis=-1)


def _histogram(ranks: Indices, size: int) -> NDArray[np.int64]:
    """(replicates, games, size): how often each rank occurs among ranks (replicates, runs, games)."""
    replicates, _, games = ranks.shape
    cells = np.arange(replicates * games).reshape(replicates, 1, games) * size
    return np.bincount((ranks + cells).ravel(), minlength=replicates * games * size).reshape(replicates, games, size)


def _percentiles(values: Array, confidence: float) -> Array:
    tail = 50.0 * (1.0 - confidence)
    return np.percentile(values, [tail, 100.0 - tail], axis=0)


def _step(size: int) -> int:
    return max(1, _BLOCK // size)


def _run_means(scores: Array) -> Array:
    return scores.mean(axis=2) if scores.ndim == 3 else scores


def _checked(values: ArrayLike, dimensions: tuple[int, ...]) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in dimensions or 0 in array.shape:
        wanted = " or ".join("(runs, games)" if d == 2 else "(runs, games, episodes or frames)" for d in dimensions)
        raise ScoreError(f"expected scores {wanted}, none of them 0, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ScoreError(f"expected finite scores, got {np.count_nonzero(~np.isfinite(array))} that are not")
    return array


def _with_spread(scores: Array, what: str) -> Array:
    if len(scores) < MIN_RUNS:
        runs = "1 run or mean" if len(scores) == 1 else f"{len(scores)} runs"
        raise ScoreError(f"{what} needs at least {MIN_RUNS} runs a game, got {runs}")
    return scores


def _two_sides(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    a, b = _checked(x, (2,)), _checked(y, (2,))
    if a.shape[1] != b.shape[1]:
        raise ScoreError(f"a probability of improvement needs the same games on both sides, got {a.shape[1]} against {b.shape[1]}")
    return a, b


def _rising(taus: ArrayLike) -> Array:
    thresholds = np.asarray(taus, dtype=np.float64)
    if thresholds.ndim != 1 or len(thresholds) == 0 or not np.isfinite(thresholds).all() or (np.diff(thresholds) <= 0).any():
        raise ScoreError("the taus of a profile must be finite and rise from one to the next")
    return thresholds


def _check_settings(seed: int, replicates: int, confidence: float) -> None:
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected 0 to 2**32 - 1, got {seed}")
    if replicates < 1:
        raise ValueError(f"replicates: expected at least 1, got {replicates}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: expected a share between 0 and 1, got {confidence}")
