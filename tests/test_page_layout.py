"""What the page of a study shows first, how its tables fit, and the figure of training losses."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_html_report import Page
from test_report import finish, finished, planned

from analysis.training_figures import binned, loss_figure
from diamond_bench.report import write_report
from diamond_bench.report.departures import sentences
from diamond_bench.report.facts import gather
from diamond_bench.report.markup import table
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import save_plan

pytestmark = pytest.mark.usefixtures("unrendered")

CHANGE = "objective.coordinate: change, objective.sigma_offset_noise: 0.0, objective.quantization: round, sampler.quantization: round"


def test_a_wide_table_is_split_and_each_part_names_its_rows() -> None:
    metrics = [f"a long metric number {i}" for i in range(15)]
    rows = [{"game": "Pong", "variant": name, **dict.fromkeys(metrics, "0.1234")} for name in ("n=1", "n=2")]
    page = Page(
        table(pd.DataFrame([*rows, {"game": "Pong", "variant": "floor", metrics[0]: "1"}]).fillna(""), "x", numeric=metrics, keys=2)
    )
    parts = len(page.all("table"))
    assert parts > 1
    heads = [attributes for attributes in page.all("th") if attributes["scope"] == "col"]
    assert len(heads) == len(metrics) + 2 * parts  # each metric once, game and variant in every part
    assert page.words.count("n=2") == parts
    assert page.words.count("floor") == 1  # the other parts say nothing about it
    assert {attributes["data-column"] for attributes in page.all("td")} == set(metrics)


def test_the_first_line_says_which_variants_are_not_the_papers_model(tmp_path: Path) -> None:
    arms = f"arms:\n  paper: {{}}\n  change: {{{CHANGE}}}\naxes: {{n: {{key: sampler.num_steps, values: [1, 2]}}}}\n"
    saved, store = finished(tmp_path, planned(tmp_path, more=arms))
    first, only = sentences(saved, gather(saved, store))
    assert first == "Not the paper's model: the settings of “change” differ from DIAMOND as released. The paper's EDM is “paper”."
    assert only.startswith("change: objective.coordinate = change (released: frame), objective.sigma_offset_noise = 0.0 (released: 0.3), ")
    words = Page(write_report(saved, store, lambda text: None)[0].read_text()).words
    assert words.index(first) < words.index("xStudy mine")  # before the question


@pytest.mark.parametrize(
    ("more", "tokens", "words"),
    [
        ("axes: {n: {key: sampler.num_steps, values: [1, 2]}}", [], None),  # the paper varies the number of steps itself
        (f"set: {{{CHANGE}}}", [], "Not the paper's model: every variant differs"),
        ("", ["objective=ddpm", "sampler=ddpm_ancestral"], "Not the paper's model: every variant differs"),
    ],
)
def test_what_is_the_papers_model_follows_from_the_settings(more: str, tokens: list[str], words: str | None, tmp_path: Path) -> None:
    saved, store = finished(tmp_path, planned(tmp_path, tokens, more))
    said = sentences(saved, gather(saved, store))
    assert bool(said) == (words is not None)
    assert words is None or re.match(words, said[0])


def logged(losses: list[float], key: str = "loss") -> str:
    return "".join(json.dumps({"step": step, key: loss, "grad_norm": 1.0}) + "\n" for step, loss in enumerate(losses, start=1))


def test_training_losses_are_a_figure_with_a_csv_file(tmp_path: Path) -> None:
    """Variants that share a training share its line, and a loss that is not finite is left out."""
    plan = planned(tmp_path, ["seeds=2", "sampler.num_steps=1,2"])
    store = Store(tmp_path / "outputs", say=lambda text: None)
    for spec in plan.jobs.values():
        seed = getattr(spec.config, "seed", 0)
        finish(store, spec, log=logged([2.0 + seed, float("nan"), 0.5]) if spec.kind == "train_world_model" else None)
    saved = save_plan(plan, store.root)
    files = {file.name for file in write_report(saved, store, lambda text: None)}
    assert {"losses-Pong.png", "losses-Pong.pdf", "losses-Pong.csv"} <= files
    found = pd.read_csv(saved.folder / "report" / "losses-Pong.csv")
    assert set(found["series"]) == {"every variant"}
    assert set(found["panel"]) == {"world model"}
    assert found[["update", "value", "low", "high"]].to_numpy().tolist() == [[1.0, 2.5, 2.0, 3.0], [3.0, 0.5, 0.5, 0.5]]
    assert "2 logged losses that are not finite are left out" in (saved.folder / "report" / "index.html").read_text()


def test_the_labels_of_a_loss_axis_are_numbers() -> None:
    """Losses that span less than a decade have labels between its powers of ten, and none is a formula."""
    steps = np.arange(1, 20)
    frame = pd.DataFrame({"network": "a", "training": "b", "seed": 0, "step": steps, "loss": np.linspace(0.6, 0.15, 19)})
    figure = loss_figure(frame, "update")
    figure.draw_without_rendering()
    labels = [label.get_text() for which in ("major", "minor") for label in figure.axes[0].get_yticklabels(which=which)]
    assert {"0.2", "0.5"} <= set(labels)
    assert not any("$" in label for label in labels)


def test_a_long_log_is_averaged_in_equal_parts() -> None:
    steps = np.arange(1, 1001)
    frame = pd.DataFrame({"network": "a", "training": "b", "seed": 0, "step": steps, "loss": steps.astype(float)})
    shown = binned(frame, most=10)
    assert list(shown["step"]) == list(range(100, 1001, 100))
    assert list(shown["loss"]) == [50.5 + 100 * i for i in range(10)]
