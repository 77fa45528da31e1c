"""The metric cards of docs/metrics.md follow from their numbers, and their verdicts from a rule that is tested here."""

import importlib.util
import math
import sys
from types import ModuleType

import numpy as np
import pytest
from command_line import ROOT

from diamond_bench.metrics import all_metrics
from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.studies.plan import plan_study


@pytest.fixture(scope="module")
def cards() -> ModuleType:
    spec = importlib.util.spec_from_file_location("metric_cards", ROOT / "docs" / "hooks" / "metric_cards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["metric_cards"] = module
    spec.loader.exec_module(module)
    return module


def row(damage: str, repetition: int, value: float, scale: float, metric: str = "drift") -> dict[str, str]:
    return {"game": "g", "metric": metric, "damage": damage, "repetition": str(repetition), "value": str(value), "scale": str(scale)}


def test_responses_are_relative_to_the_largest_change_and_the_spread_of_true_frames(cards: ModuleType) -> None:
    rows = [row("none", 0, 1.0, 4.0), row("none", 1, 2.0, 4.0), row("blur", 0, 3.0, 4.0), row("blur", 1, 3.0, 4.0)]
    (found,) = cards.responses(rows).values()
    assert found == {"blur": ((2 / 4 + 1 / 4) / 2, pytest.approx(math.sqrt(0.5) / 4))}


def test_a_metric_sees_what_exceeds_the_spread_and_one_percent(cards: ModuleType) -> None:
    assert cards.sees(0.02, 0.0)
    assert cards.sees(-0.5, 0.2)
    assert not cards.sees(0.5, 0.3), "undamaged repetitions differ as much"
    assert not cards.sees(0.005, 0.0)
    assert not cards.sees(math.nan, 0.0)


def test_metrics_of_sets_get_the_sizes_that_they_need(cards: ModuleType) -> None:
    assert cards.sizes("") == cards.sizes("[drift,lpips]") == cards.SIZES
    assert cards.sizes("[fid]")["evaluation.num_trajectories"] == 128
    both = cards.sizes("[drift, fid, fvd]")
    assert (both["evaluation.num_trajectories"], both["evaluation.num_fid_images"]) == (401, 2048)
    words = [f"{key}={value}" for key, value in both.items() if key.partition(".")[0] != "probe"]
    plan_study("sampling_steps", [*words, "games=[Freeway]", "metrics=[drift,fid,fvd]"])


def test_damages_are_what_they_are_called(cards: ModuleType) -> None:
    frames = np.zeros((2, 3, 8, 8, 3), np.uint8)
    for t in range(3):
        frames[:, t, 1, t] = 90  # one pixel moves
        frames[:, t, 4:7, 3 + t : 5 + t] = 200  # and a larger object
    last = np.full((2, 8, 8, 3), 7, np.uint8)
    rng = np.random.default_rng(0)
    damaged = {name: damage(frames, last, rng) for name, (_, damage) in cards.DAMAGES.items()}
    assert np.array_equal(damaged["none"], frames)
    assert damaged["blur"][0, 1, 1, 1].tolist() == [10, 10, 10]
    assert damaged["blur"][0, 0, 0, 0].tolist() == [20, 20, 20], "edges repeat, so the pixel counts twice"
    assert 6 < damaged["noise"][frames == 200].astype(float).std() < 10
    assert not (damaged["object"] == 90).any()
    assert np.array_equal(damaged["object"] == 200, frames == 200)
    assert (damaged["frozen"] == 7).all()
    assert np.array_equal(damaged["delay"][:, 1:], frames[:, :-1])
    assert (damaged["delay"][:, 0] == 7).all()


def test_the_page_shows_its_numbers(cards: ModuleType) -> None:
    page, rows = cards.PAGE.read_text(), cards.read_numbers()
    assert cards.render(page, rows) == page, "run python docs/hooks/metric_cards.py"
    assert {row["metric"] for row in rows} <= set(METRIC_INFO)
    assert {row["damage"] for row in rows} == set(cards.DAMAGES)


def test_the_numbers_have_both_ends(cards: ModuleType) -> None:
    """True frames have no error, and frozen frames respond in every metric of pairs of frames."""
    found = cards.responses(rows := cards.read_numbers())
    for metric in ("drift", "lpips"):
        assert {float(row["value"]) for row in rows if row["metric"] == metric and row["damage"] == "none"} == {0.0}
        assert all(of["frozen"][0] > 0.1 for (_, name), of in found.items() if name == metric)


def test_every_registered_metric_is_in_the_cards(cards: ModuleType) -> None:
    rows = cards.read_numbers()
    without = [text.split("`")[1] for text in cards.unmeasured(rows)]
    with_numbers = [name for name, metric in all_metrics().items() if set(metric.columns) & {row["metric"] for row in rows}]
    assert sorted([*without, *with_numbers]) == sorted(all_metrics())
    assert "modes" in without
