"""Margins, tests and looks as a study's file states them."""

import re
from pathlib import Path
from typing import Any

import pytest

from diamond_bench.errors import UserError
from diamond_bench.studies.answerable import limits
from diamond_bench.studies.looks import look_level, read_looks
from diamond_bench.studies.margin import Margin, parse_margin, stated_margin
from diamond_bench.studies.plan import as_saved, plan_study
from diamond_bench.studies.spec import load_study, study_files


@pytest.mark.parametrize(
    ("value", "margin", "plain", "words"),
    [
        (0.01, Margin(0.01), 0.01, "0.01"),
        (0, Margin(0.0), 0.0, "0"),
        ("10%", Margin(0.1, relative=True), "10%", "10% of copy-last-frame's error"),
        (" 2.5 % ", Margin(0.025, relative=True), "2.5%", "2.5% of copy-last-frame's error"),
        ("50%", Margin(0.5, relative=True), "50%", "50% of copy-last-frame's error"),
    ],
)
def test_a_margin_is_a_number_or_a_share_of_copying(value: object, margin: Margin, plain: float | str, words: str) -> None:
    assert parse_margin(value, "margin") == margin
    assert margin.plain() == plain
    assert margin.words() == words
    assert parse_margin(margin.plain(), "margin") == margin


@pytest.mark.parametrize("value", [True, -0.1, float("nan"), float("inf"), "0.01", "-1%", "50.1%", "%", "1e1%", None, [1]])
def test_anything_else_is_refused_by_name(value: object) -> None:
    with pytest.raises(UserError, match=re.escape(f"primary.margin={value!r}: expected")):
        parse_margin(value, "primary.margin")


def test_the_default_margin_depends_on_whether_copying_has_the_metric() -> None:
    assert stated_margin("drift_final", None, "margin") == Margin(0.1, relative=True)
    assert stated_margin("lpips", None, "margin") == Margin(0.1, relative=True)
    assert stated_margin("psnr", None, "margin") == Margin(0.0)
    assert stated_margin("drift", 0, "margin") == Margin(0.0)


def test_shipped_studies_of_an_error_have_a_relative_margin_save_one_that_says_why() -> None:
    stated = {name: load_study(name, "paper").primary for name in study_files()}
    of_errors = {name: primary.margin for name, primary in stated.items() if primary.metric in ("drift", "lpips")}
    assert len(of_errors) > 10
    assert {name for name, margin in of_errors.items() if margin != Margin(0.1, relative=True)} == {"precision"}


def test_a_plan_stores_how_the_comparison_is_answered(tmp_path: Path) -> None:
    def primary(more: str) -> dict[str, Any]:
        file = tmp_path / "mine.yaml"
        file.write_text(f"question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 3\nprimary: {{metric: drift{more}}}\n")
        return dict(as_saved(plan_study(str(file), ["scale=tiny"]), tmp_path).primary)

    given = primary(", margin: 5%, test: t, looks: [3, 5, 10], holm_equivalence: true")
    assert given == {
        "metric": "drift", "baseline": {}, "margin": "5%", "variants": [], "test": "t", "looks": [3, 5, 10], "holm_equivalence": True,
    }  # fmt: skip
    left_out = {"margin": "10%", "test": "permutation", "looks": [], "holm_equivalence": False}
    assert {key: primary("")[key] for key in left_out} == left_out


def test_the_limits_of_a_plan_depend_on_its_test_and_looks(tmp_path: Path) -> None:
    def said(primary: str) -> list[str]:
        file = tmp_path / "mine.yaml"
        axes = "axes: {n: {key: sampler.num_steps, values: [1, 2]}}"
        stated = f"primary: {{metric: drift, baseline: {{n: 1}}{primary}}}"
        file.write_text(f"question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 6\n{stated}\n{axes}\n")
        return limits(plan_study(str(file), ["scale=tiny"]))

    assert said("") == []  # the smallest p-value is 2/64 = 0.031
    assert "below 0.031" in said(", looks: [6, 12]")[0]  # that look has 0.025
    assert said(", looks: [6, 12], test: t") == []


def test_looks_spend_five_percent_in_proportion_to_the_seeds_they_add() -> None:
    looks = read_looks([3, 5, 10], "looks")
    assert [look_level(looks, seeds) for seeds in looks] == pytest.approx([0.015, 0.01, 0.025])
    assert look_level((10,), 10) == 0.05
    with pytest.raises(ValueError, match="seeds=4"):
        look_level(looks, 4)
