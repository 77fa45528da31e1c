"""How often rliable's nominal 95% intervals contain the true value, for footnotes and captions of the figures that use them."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from paper_figures.parts import SEED

if TYPE_CHECKING:
    import numpy as np

    from analysis.coverage import Attained

_REPETITIONS = 500
NOT_SIMULATED = (
    "Percentile intervals of few runs are too narrow. How often these hold the true value was not simulated; for aggregates of the same "
    "runs, figure2 and optimality_gap say it."
)
BASIS = (
    "Attained: how often such an interval holds the true value in a simulation of normal runs around each game's mean with that game's "
    f"standard deviation, {_REPETITIONS} repetitions, seed {SEED}; its Monte Carlo standard error is below 2.3 points. Skewed or "
    "heavy-tailed runs attain less."
)


def attained(matrix: "np.ndarray") -> "dict[str, Attained]":
    """The attained coverage of the percentile interval for HNS (runs, games), by aggregate. Equal matrices are simulated once.

    Raises ScoreError below three runs.
    """
    return dict(_simulated(matrix.tobytes(), matrix.shape))


@lru_cache(maxsize=64)
def _simulated(scores: bytes, shape: tuple[int, ...]) -> "Mapping[str, Attained]":
    import numpy as np

    from analysis.coverage import attained_coverage

    return attained_coverage(np.frombuffer(scores).reshape(shape), SEED, repetitions=_REPETITIONS)


def attained_words(matrix: "np.ndarray", titles: Mapping[str, str]) -> str:
    """A footnote: `nominal 95%; attained by simulation for 5 runs x 26 games: mean about 88%, IQM about 86%.`"""
    from analysis.coverage import MAX_RUNS

    found = attained(matrix)
    levels = ", ".join(f"{title} about {_percent(found[name].level)}" for name, title in titles.items())
    runs, games = matrix.shape
    least = f" (simulated with {MAX_RUNS} runs)" if runs > MAX_RUNS else ""
    return f"nominal 95%; attained by simulation for {runs} runs × {games} {'game' if games == 1 else 'games'}: {levels}{least}."


def range_of_levels(matrices: Iterable["np.ndarray"], names: Sequence[str]) -> str:
    """For a caption: the lowest and highest attained level of these aggregates over matrices; empty without matrices."""
    levels = [attained(matrix)[name].level for matrix in matrices for name in names]
    if not levels:
        return ""
    low, high = _percent(min(levels)), _percent(max(levels))
    return f"nominal 95%, attained about {low if low == high else f'{low[:-1]} to {high}'} by simulation"


def _percent(level: float) -> str:
    return f"{100 * level:.0f}%"
