"""Several studies on one page: what stands side by side, what is said of differences, and that nothing is claimed between studies."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_html_report import CHROMIUM, WIDTHS, Page, browse
from test_report import finish

from diamond_bench import api
from diamond_bench.cli.several_studies import studies_named
from diamond_bench.errors import UserError
from diamond_bench.report.together import labels
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import Plan, as_saved, plan_study, save_plan

pytestmark = pytest.mark.usefixtures("unrendered")

VERDICTS = ("better than", "worse than", "equivalent within")


class Lab:
    """A store, and studies in files whose jobs are written, not run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "outputs", say=lambda text: None)

    def study(self, name: str, steps: str = "[1, 2]", metric: str = "drift", game: str = "Pong") -> str:
        """The file of a study of n denoising steps."""
        file = self.folder / f"{name}.yaml"
        axes = f"axes: {{n: {{key: sampler.num_steps, values: {steps}}}}}"
        primary = f"primary: {{metric: {metric}, baseline: {{n: 1}}}}"
        file.write_text(f"question: x\nprotocol: world_model\ngames: [{game}]\nseeds: 3\n{primary}\n{axes}\n")
        return str(file)

    def sweep(self, file: str, *tokens: str, level: float = 0.1) -> Plan:
        """The study finished with these overrides; drift is about `level` / n."""
        plan = plan_study(file, tokens)
        for spec in plan.jobs.values():
            if self.store.state(spec.ref).status != "done":
                drift = {"drift": level / spec.config.sampler.num_steps} if spec.kind == "evaluate_world_model" else None
                finish(self.store, spec, scores=drift)
        save_plan(plan, self.store.root)
        return plan

    def together(self, *studies: list[str]) -> list[Path]:
        return api.report_together(*studies, output_dir=self.store.root, say=lambda text: None)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def words_of(files: list[Path]) -> str:
    return Page(files[0].read_text()).words


def test_two_datasets_of_one_study_stand_side_by_side(lab: Lab) -> None:
    file = lab.study("mine")
    expert, random = ["scale=tiny", "data=expert"], ["scale=tiny", "data=random"]
    lab.sweep(file, *expert, level=0.1)
    lab.sweep(file, *random, level=0.3)
    files = lab.together([file, *expert], [file, *random])
    assert {"index.html", "side_by_side.csv", "side-drift-Pong-tiny.png", "side-drift-Pong-tiny.csv"} <= {found.name for found in files}
    assert files[0].parent.parent == lab.store.root / "comparisons"
    shown = pd.read_csv(files[1])
    drift = shown[(shown["metric"] == "drift") & shown["variant"].isin(["n=1", "n=2"])].set_index(["study", "variant"])["mean"].to_dict()
    assert {key: value for key, value in drift.items() if key[0] == "mine, data=expert"} == pytest.approx(
        {("mine, data=expert", "n=1"): 0.1, ("mine, data=expert", "n=2"): 0.05}
    )
    assert {key: value for key, value in drift.items() if key[0] == "mine, data=random"} == pytest.approx(
        {("mine, data=random", "n=1"): 0.3, ("mine, data=random", "n=2"): 0.15}
    )
    words = words_of(files)
    assert "The datasets of Pong differ (mine, data=expert: " in words
    assert "data.policy = expert" in words
    assert "data.policy = random" in words
    assert "No test between these studies was registered, so this page claims no difference between them." in words


def test_nothing_is_claimed_between_studies(lab: Lab) -> None:
    """Ten times the error in the other study: the page shows both numbers and no verdict, p-value or interval of their difference."""
    one, other = lab.study("one"), lab.study("other")
    lab.sweep(one, "scale=tiny", "data=random", level=0.1)
    lab.sweep(other, "scale=tiny", "data=random", "training.weight_decay=0.2", level=1.0)
    words = words_of(lab.together([one, "scale=tiny"], [other, "scale=tiny"]))
    assert not re.search(r"\bother\b[^.]*(better|worse|equivalent)[^.]*\bone\b|\bone\b[^.]*(better|worse|equivalent)[^.]*\bother\b", words)
    between = words[words.index("Numbers side by side") :]
    assert not any(verdict in between for verdict in VERDICTS)
    assert not re.search(r"\bp = ", between)
    assert "training.weight_decay" in between  # the setting in which they differ


def test_studies_that_share_trainings_say_so(lab: Lab) -> None:
    one, other = lab.study("one", "[1, 2]"), lab.study("other", "[1, 3]")
    for file in (one, other):
        lab.sweep(file, "scale=tiny", "data=random")
    words = words_of(lab.together([one, "scale=tiny"], [other, "scale=tiny"]))
    assert "3 trainings are shared between the studies, so their results are not independent." in words
    assert "The datasets" not in words


@pytest.mark.parametrize(
    ("second", "tokens", "warning"),
    [
        ({"game": "Boxing"}, ["scale=tiny"], "The games differ: one: Pong; other: Boxing."),
        ({}, ["scale=smoke"], "The scales differ, so these studies do not share a table: one: tiny; other: smoke."),
    ],
    ids=["games", "scales"],
)
def test_what_does_not_agree_shares_no_table(second: dict[str, str], tokens: list[str], warning: str, lab: Lab) -> None:
    one, other = lab.study("one"), lab.study("other", **second)  # type: ignore[arg-type]
    lab.sweep(one, "scale=tiny", "data=random")
    lab.sweep(other, *tokens, "data=random")
    files = lab.together([one, "scale=tiny"], [other, *tokens])
    words = words_of(files)
    assert warning in words
    assert "No two of these studies share protocol, scale, game and metric" in words
    assert len(pd.read_csv(files[1])) == 0


def test_settings_of_an_evaluation_that_change_a_metric_are_named_at_its_numbers(lab: Lab) -> None:
    one = lab.study("one")
    sweeps = [[one, "scale=tiny", "data=random", f"evaluation.horizon={n}", "data.reference_horizon=8"] for n in (4, 8)]
    for sweep in sweeps:
        lab.sweep(*sweep)
    differs = "evaluation.horizon differs: one, evaluation.horizon=4: 4; one, evaluation.horizon=8: 8."
    assert f"These are not the same measurement: {differs}" in words_of(lab.together(*sweeps))


def test_a_label_names_what_changes_results(lab: Lab) -> None:
    """One sweep was run with output_dir=, the other without: both lie in this store, so the folder names neither."""
    one = lab.study("one")
    plans = [as_saved(lab.sweep(one, "scale=tiny", f"data={policy}"), lab.store.root) for policy in ("expert", "random")]
    plans[1] = replace(plans[1], command=f"{plans[1].command} output_dir=/elsewhere cluster.num_workers=2")
    assert labels(plans) == ["one, data=expert", "one, data=random"]


def test_the_command_line_names_several_studies() -> None:
    assert studies_named(["a", "b", "scale=smoke"]) == [["a", "scale=smoke"], ["b", "scale=smoke"]]
    assert studies_named(["a", "data=expert", "a", "data=random", "output_dir=x"]) == [
        ["a", "data=expert", "output_dir=x"],
        ["a", "data=random", "output_dir=x"],
    ]
    assert studies_named(["a", "scale=smoke"]) == [["a", "scale=smoke"]]


def test_a_study_named_twice_is_refused(lab: Lab) -> None:
    one = lab.study("one")
    lab.sweep(one, "scale=tiny", "data=random")
    with pytest.raises(UserError, match="one is named twice; give each sweep of a study the overrides that tell it from the others"):
        lab.together([one, "scale=tiny"], [one, "scale=tiny"])
    assert not (lab.store.root / "comparisons").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")
def test_a_browser_shows_several_studies_without_scrolling_sideways(lab: Lab, tmp_path: Path) -> None:
    one, other = lab.study("one"), lab.study("other", "[1, 2, 3]")
    lab.sweep(one, "scale=tiny", "data=random")
    lab.sweep(other, "scale=tiny", "data=random", "training.weight_decay=0.2")
    page = lab.together([one, "scale=tiny"], [other, "scale=tiny"])[0]
    for width, found in zip(WIDTHS, browse(page, tmp_path), strict=True):
        assert (found["width"] <= width, found["scrolls"], found["small"]) == (True, [], 0)
