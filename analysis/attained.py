"""Error rates of verdicts with few runs, as measured by tests/benchmarks/verdicts.py, for the page of a study."""

import functools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

FILE = Path(__file__).with_name("attained.csv")
"""The benchmark's table: one row per simulated cell and test."""
_SKEWED = ("paired", "unequal", "unbalanced")
"""Designs in which the difference of two lognormal sides is skewed. With equal distributions on both sides it is symmetric."""


@dataclass(frozen=True)
class Attained:
    """Rates over simulated studies, each the worst of several cells."""

    seeds: int
    games: int
    wrong: float
    """Share of studies with a wrong better or worse."""
    equivalent: float
    """Share of comparisons called equivalent at a true difference of the margin."""
    coverage: tuple[float, float]
    """Smallest and largest share of intervals that contain the true difference."""


def skewed(table: pd.DataFrame) -> "pd.Series[bool]":
    """The rows of the benchmark's table with skewed differences between runs."""
    return (table["distribution"] == "lognormal") & table["design"].isin(_SKEWED)


def attained(test: str, seeds: int, games: int, of_skewed: bool) -> Attained:
    """The rates for this test and the nearest simulated numbers of seeds (at most the given one, at least 3) and games (1 to 3).

    `of_skewed`: use cells in which differences between runs are as skewed as a lognormal distribution; otherwise all others, in which they
    are symmetric. Cells with 3 and 10 runs on the sides count for 3 seeds.
    """
    table = _table()
    fewer = table["design"] == "unbalanced"
    table = table.assign(seeds=table["seeds"].where(~fewer, 3))
    nearest = max(n for n in set(table["seeds"]) if n <= max(seeds, min(table["seeds"])))
    on = min(max(games, 1), int(table["games"].max()))
    cells = table[(table["test"] == test) & (table["seeds"] == nearest) & (table["games"] == on) & (skewed(table) == of_skewed)]
    coverage = (float(cells["coverage"].min()), float(cells["coverage"].max()))
    return Attained(int(nearest), on, float(cells["family-wise"].max()), float(cells["equivalent"].max()), coverage)


@functools.cache
def _table() -> pd.DataFrame:
    return pd.read_csv(FILE)
