"""The benchmark of growing costs: its numbers and figure belong together, and it measures networks of growing batch."""

import csv
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from cost_growth import COLUMNS, NUMBERS, PANELS, PICTURE, Axis, exponents, lines, measure_networks, read_numbers

TINY = "scale=tiny execution.num_threads=1 execution.precision=fp32 execution.compile=none"


def test_the_stored_numbers_fill_every_panel() -> None:
    with NUMBERS.open(newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    rows = read_numbers()
    assert {row["panel"] for row in rows} == {*PANELS}
    assert all(float(row["x"]) > 0 and float(row["seconds"]) > 0 for row in rows)
    assert all(len(points) > 1 for panel in PANELS for points in lines([row for row in rows if row["panel"] == panel]).values())
    assert PICTURE.exists()


def test_exponents_are_slopes_on_logarithmic_axes() -> None:
    assert exponents([1, 2, 8], [3, 6, 96]) == pytest.approx([1.0, 2.0])


def test_a_larger_batch_counts_more_arithmetic() -> None:
    rows = measure_networks(Axis("batch", "", (1, 4), "training.batch_size={x} actor_critic.batch_size={x}"), TINY, enough=1e-3)
    assert [(row["series"], row["x"]) for row in rows] == [("update", 1), ("update", 4), ("next frame", 1), ("next frame", 4)]
    flop = [float(row["gflop"]) for row in rows]
    assert flop[1] / flop[0] == pytest.approx(4.0, rel=1e-3)
    assert flop[3] / flop[2] == pytest.approx(4.0, rel=1e-3)
    assert all(float(row["low"]) <= float(row["seconds"]) <= float(row["high"]) for row in rows)
