"""The rates of wrong verdicts that a page prints: from the benchmark's table, and the table from the benchmark."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.attained import FILE, attained

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from verdicts import Cell, measure, unexpected


def test_the_worst_cell_of_the_nearest_simulation_is_taken() -> None:
    table = pd.read_csv(FILE)
    plain = attained("t", 7, 5, of_skewed=False)  # 5 seeds and 3 games were simulated
    assert (plain.seeds, plain.games) == (5, 3)
    cells = table[(table["test"] == "t") & (table["seeds"] == 5) & (table["games"] == 3)]
    symmetric = cells[(cells["distribution"] != "lognormal") | (cells["design"] == "unpaired")]
    assert plain.wrong == symmetric["family-wise"].max()
    assert plain.coverage == (symmetric["coverage"].min(), symmetric["coverage"].max())
    assert attained("t", 5, 3, of_skewed=True).equivalent == cells.drop(symmetric.index)["equivalent"].max()
    assert attained("permutation", 2, 1, of_skewed=False).seeds == 3


def test_symmetric_differences_keep_their_level() -> None:
    assert unexpected(pd.read_csv(FILE), 2000).empty


@pytest.mark.parametrize("cell", [Cell("normal", "paired", 5, 1), Cell("lognormal", "unequal", 3, 1)])
def test_the_benchmark_gives_the_stored_rates(cell: Cell) -> None:
    table = pd.read_csv(FILE)
    for row in measure(cell, 150):
        same = np.logical_and.reduce(
            [table[name] == row[name] for name in ("test", "distribution", "design", "seeds", "games", "episodes")]
        )
        (stored,) = table[same].to_dict("records")
        for rate in ("family-wise", "coverage", "equivalent"):
            error = np.sqrt(max(stored[rate] * (1 - stored[rate]), 0.01) / 150)
            assert row[rate] == pytest.approx(stored[rate], abs=4 * error)
