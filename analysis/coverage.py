"""The coverage of an aggregate's interval: how often it contains the true value, simulated from a model of the scores themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.aggregates import CORRECTED, Array, ScoreError, aggregate, student_ends
from analysis.runs import MIN_RUNS

Method = Literal["percentile", "corrected"]
Shape = Literal["normal", "t3", "lognormal"]

SHAPES: tuple[Shape, ...] = ("normal", "t3", "lognormal")
REPETITIONS, REPLICATES = 1000, 200
MAX_RUNS = 20
"""More runs are simulated as this many. Coverage commonly rises with the number of runs, so the result is conservative."""

_MAX_VALUES = 40_000_000
"""Numbers resampled in one simulation. Larger matrices get fewer repetitions, and a larger Monte Carlo error."""
_BLOCK = 2_000_000
_GRID = 4001
_SKEWED = 0.5
"""Standard deviation of the logarithm of lognormal runs, whose skewness is 1.75."""


@dataclass(frozen=True)
class Attained:
    """The share of simulated intervals that contain the true value, and its Monte Carlo standard error."""

    level: float
    error: float


def attained_coverage(
    matrix: ArrayLike,
    seed: int,
    method: Method = "percentile",
    shape: Shape = "normal",
    repetitions: int = REPETITIONS,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
) -> dict[str, Attained]:
    """How often the intervals of CORRECTED contain the true value, for HNS (runs, games) such as `matrix`.

    A parametric simulation: in each repetition, as many runs of each game are drawn around that game's mean with that game's standard
    deviation (n - 1), both taken from `matrix`. Their standardised distribution is normal, Student's t with 3 degrees of freedom, or
    lognormal with skewness 1.75. The true values are those of the model: mean and median of the games' means, the expected gap and, for the
    IQM, the mean of the model's distribution after trimming the same share as the IQM trims of so many runs (floor(N / 4) / N of N values).

    `method`: `percentile` for `aggregates.intervals`, `corrected` for `aggregates.corrected_intervals`. `replicates` are the resamples of
    each simulated interval. Raises ScoreError below MIN_RUNS runs, and ValueError for fewer than 2 repetitions or replicates.
    """
    scores = np.asarray(matrix, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape or not np.isfinite(scores).all():
        raise ScoreError(f"expected finite scores (runs, games), got shape {scores.shape}")
    if len(scores) < MIN_RUNS:
        raise ScoreError(f"a coverage needs at least {MIN_RUNS} runs a game, got {len(scores)}")
    mean, deviation = scores.mean(axis=0), scores.std(axis=0, ddof=1)
    runs, games = min(len(scores), MAX_RUNS), len(mean)
    repetitions = max(2, min(repetitions, _MAX_VALUES // (replicates * runs * games)))
    generator = np.random.default_rng(seed)
    truth = true_values(mean, deviation, shape, runs)

    def held(sets: Array) -> Array:
        low, high = batch_intervals(sets, generator, method, replicates, confidence)
        return np.asarray((low <= truth) & (truth <= high), dtype=np.float64)

    return simulate(lambda number: mean + deviation * noise((number, runs, games), generator, shape), held, repetitions, replicates)


def simulate(draw: Callable[[int], Array], held: Callable[[Array], Array], repetitions: int, replicates: int) -> dict[str, Attained]:
    """The share of repetitions in which each interval contains the true value. `draw` returns sets of scores (sets, runs, games), `held`
    returns (sets, CORRECTED)."""
    if repetitions < 2 or replicates < 2:
        raise ValueError(f"expected at least 2 repetitions and replicates, got {repetitions} and {replicates}")
    step = max(1, _BLOCK // (replicates * draw(1).size))
    found = np.concatenate([held(draw(min(step, repetitions - first))) for first in range(0, repetitions, step)])
    level = found.mean(axis=0)
    error = np.sqrt(level * (1.0 - level) / repetitions)
    return {name: Attained(float(level[i]), float(error[i])) for i, name in enumerate(CORRECTED)}


def batch_intervals(
    sets: Array, generator: np.random.Generator, method: Method, replicates: int, confidence: float = 0.95
) -> tuple[Array, Array]:
    """Ends (sets, CORRECTED) of the intervals of many sets of scores (sets, runs, games). All sets share the draws of their resamples."""
    number, runs, games = sets.shape
    drawn = generator.integers(runs, size=(replicates, runs, games)) * games + np.arange(games)
    flat = np.take(sets.reshape(number, runs * games), drawn.ravel(), axis=1).reshape(number * replicates, runs, games)
    values = aggregate(flat).reshape(number, replicates, -1)[..., : len(CORRECTED)]
    if method == "corrected":
        return student_ends(sets, values, flat.mean(axis=1).reshape(number, replicates, games), confidence)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(values, [tail, 100.0 - tail], axis=1)
    return low, high


def noise(size: tuple[int, ...], generator: np.random.Generator, shape: Shape) -> Array:
    """Random numbers of this shape, with mean 0 and standard deviation 1."""
    if shape == "t3":
        return np.asarray(generator.standard_t(3, size) / np.sqrt(3.0))
    normal = generator.standard_normal(size)
    return _lognormal(normal) if shape == "lognormal" else normal


def true_values(mean: Array, deviation: Array, shape: Shape, runs: int) -> Array:
    """(CORRECTED,): the model's own aggregates, for games with these means and standard deviations (games,)."""
    from scipy.special import ndtri, stdtrit

    at = (np.arange(_GRID) + 0.5) / _GRID
    quantiles = {"normal": ndtri, "t3": lambda p: stdtrit(3, p) / np.sqrt(3.0), "lognormal": lambda p: _lognormal(ndtri(p))}[shape](at)
    values = np.sort(mean + deviation * quantiles[:, None], axis=None)
    size = runs * len(mean)
    cut = round(int(0.25 * size) / size * values.size)
    truth = {
        "mean": mean.mean(),
        "median": np.median(mean),
        "iqm": values[cut : values.size - cut].mean(),
        "optimality_gap": 1.0 - np.minimum(values, 1.0).mean(),
    }
    return np.array([truth[name] for name in CORRECTED])


def _lognormal(normal: Array) -> Array:
    variance = _SKEWED**2
    return np.asarray((np.exp(_SKEWED * normal - variance / 2.0) - 1.0) / np.sqrt(np.expm1(variance)))
