"""The report of studies of every shape, drawn from results that are written, not computed."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rewritten import rewrite_arrays

import analysis.variant_figures
from diamond_bench.cli.common import print_results
from diamond_bench.printing import print_json
from diamond_bench.report import write_report
from diamond_bench.report.drawing import Drawn
from diamond_bench.results.table import _by_variant, collect, pivot, save_results
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import read_json, sealed, write_json
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.states import result_stamp
from diamond_bench.studies.estimate import estimate
from diamond_bench.studies.plan import Plan, SavedPlan, plan_study, save_plan
from diamond_bench.terminal import SafeConsole

pytestmark = pytest.mark.usefixtures("unrendered")

HORIZON = 8


def planned(folder: Path, tokens: Sequence[str] = (), more: str = "") -> Plan:
    file = folder / "mine.yaml"
    file.write_text(f"question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 1\nprimary: {{metric: drift}}\n{more}")
    return plan_study(str(file), ["scale=tiny", "data=random", *tokens])


def finish(
    store: Store,
    spec: JobSpec,
    noise: float = 0.0,
    device: str = "cpu",
    scores: Mapping[str, float] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    seconds: float | None = None,
    log: str | None = None,
) -> None:
    """Makes a job done with the numbers and files of its kind. `noise` moves the last bits of baselines, `scores` and `arrays` are an
    evaluation's. `seconds` is the time that the job records, and `log` its metrics.jsonl, where there is one."""
    store.prepare(spec)
    claim = store.claim(spec.ref)
    assert claim is not None
    info = {"work": 1e9, "work_seconds": 1.0} if spec.inputs else {}
    if log is not None:
        (claim.folder / "metrics.jsonl").write_text(log)
    rows = []
    if spec.kind == "collect_dataset":
        rows = [("dataset_return", -20.0, "")]
    elif spec.kind == "evaluate_world_model":
        nfe = float(spec.config.sampler.num_steps)
        rows = [("drift", 1 / nfe, ""), ("nfe_per_frame", nfe, ""), ("drift", 0.5 + noise, "copy-last-frame"), ("psnr", np.inf, "")]
        scores = {"frames_per_second": 100 / nfe, **(scores or {})}
        rows = [row for row in rows if row[0] not in scores or row[2]] + [(name, value, "") for name, value in scores.items()]
        num = spec.config.evaluation.num_trajectories
        curves = {name: np.full((num, HORIZON), 0.1, np.float32) for name in ("drift", "copy_drift", "unrelated_drift")}
        np.savez(claim.folder / "arrays.npz", **(curves if arrays is None else arrays))  # type: ignore[arg-type]
        (claim.folder / "media").mkdir()
        frames = np.zeros((2, HORIZON, 8, 8, 3), np.uint8)
        np.savez(claim.folder / "media" / "frames.npz", true=frames, imagined=frames)
    plain = [{"metric": m, "value": v if np.isfinite(v) else str(v), "measured": False, "baseline": b} for m, v, b in rows]
    time_taken = {} if seconds is None else {"seconds": seconds}
    claim.finish({"rows": plain, "info": info, "recorded": {"revision": 1, "device": device, **time_taken}})


def finished(folder: Path, plan: Plan, leave_out: Sequence[int] = ()) -> tuple[SavedPlan, Store]:
    """The plan swept, save the evaluations of the points with these numbers."""
    store = Store(folder / "outputs", say=lambda text: None)
    left = {plan.points[i].jobs["evaluation"] for i in leave_out}
    for number, (ref, spec) in enumerate(plan.jobs.items()):
        if ref not in left:
            finish(store, spec, noise=1e-9 * number)
    return save_plan(plan, store.root), store


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions of all figures drawn."""
    found: list[str] = []
    finish = Drawn.finish

    def listen(drawn: Drawn, captions: bool = False) -> int:
        found.append(drawn.caption)
        return finish(drawn, captions)

    monkeypatch.setattr(Drawn, "finish", listen)
    return found


def stems(files: Sequence[Path]) -> set[str]:
    return {file.stem for file in files if file.suffix == ".png"}


DRIFT, GRID, QUALITY = "drift-Pong", "trajectories-Pong", "quality-Pong"
SMALL, WIDE = "at-channels-8-8-8-8", "at-channels-16-16-16-16"


@pytest.mark.parametrize(
    ("tokens", "drawn"),
    [
        ([], {DRIFT, GRID, QUALITY}),
        (["training.learning_rate=0.001,0.002"], {DRIFT, GRID, QUALITY}),
        (
            ["sampler.num_steps=1,2", "network.channels=[8,8,8,8],[16,16,16,16]"],
            {DRIFT, GRID, QUALITY, f"{DRIFT}-{SMALL}", f"{GRID}-{SMALL}", f"{QUALITY}-{SMALL}"},
        ),
        (
            ["network.channels=[8,8,8,8],[16,16,16,16]", "sampler=euler,heun"],
            {DRIFT, GRID, QUALITY, f"{DRIFT}-at-sampler-euler", f"{GRID}-at-sampler-euler", f"{QUALITY}-at-sampler-euler"},
        ),
        (
            ["data.seed=0,1", "sampler.s_tmax=1.0,inf"],
            {DRIFT, GRID, QUALITY, f"{DRIFT}-at-s-tmax-1.0", f"{GRID}-at-s-tmax-1.0", f"{QUALITY}-at-s-tmax-1.0"},
        ),
    ],
    ids=["no axis", "learning rate alone", "lists", "lists and samplers", "data and infinity"],
)
def test_a_study_of_any_shape_has_a_report_with_every_value_of_its_axes(tokens: list[str], drawn: set[str], tmp_path: Path) -> None:
    saved, store = finished(tmp_path, planned(tmp_path, tokens))
    assert stems(write_report(saved, store, lambda text: None)) == drawn


def test_more_figures_than_anybody_looks_at_are_named_and_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diamond_bench.report.write._MAX_VIEWS", 2)
    saved, store = finished(tmp_path, planned(tmp_path, ["sampler.num_steps=1,2", "training.weight_decay=0.1,0.2,0.3"]))
    drawn = stems(write_report(saved, store, lambda text: None))
    assert drawn == {name for kind in (DRIFT, GRID, QUALITY) for name in (kind, f"{kind}-at-weight-decay-0.1")}
    notes = " ".join(read_json(saved.folder / "report" / "report.json")["notes"])
    assert "drift-Pong-at-weight-decay-0.2" in notes
    assert "diamond_bench.api.figure" in notes


def test_a_figure_that_cannot_be_drawn_is_left_out_and_said(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["sampler.num_steps=1,2"])
    saved, store = finished(tmp_path, plan)
    ones, zeros = (make((2, HORIZON, 8, 8, 3), np.uint8) for make in (np.ones, np.zeros))
    rewrite_arrays(store, plan.points[1].jobs["evaluation"], "media/frames.npz", true=ones, imagined=zeros)
    said: list[str] = []
    assert stems(write_report(saved, store, said.append)) == {"drift-Pong", "quality-Pong"}
    assert "trajectories-Pong is left out" in " ".join(said)
    assert "different true trajectories" in " ".join(read_json(saved.folder / "report" / "report.json")["notes"])


def test_figures_say_their_values_and_the_seeds_that_are_there(tmp_path: Path, captions: list[str]) -> None:
    plan = planned(tmp_path, ["seeds=2", "sampler.num_steps=1,2", "training.weight_decay=0.1,0.2"])
    numbers = {(p.axes["num_steps"], p.axes["weight_decay"], p.seed): i for i, p in enumerate(plan.points)}
    lacking = [numbers[1, 0.2, 0], numbers[2, 0.2, 1]]
    saved, store = finished(tmp_path, plan, lacking)
    write_report(saved, store, lambda text: None)
    drift, other_drift, grid, other_grid, quality, other_quality = captions
    assert all("weight_decay = 0.2" in caption for caption in (drift, grid, quality))  # the last value first
    assert all("weight_decay = 0.1" in caption for caption in (other_drift, other_grid, other_quality))
    assert "1 seed," in drift
    assert "2 seeds," in other_drift
    assert "seed " not in grid  # no seed that all rows have: each row says its own
    assert "seed 0" in other_grid
    assert "1 seed," in quality
    finish(store, plan.jobs[plan.points[lacking[0]].jobs["evaluation"]])
    captions.clear()
    write_report(saved, store, lambda text: None)
    assert "1 to 2 seeds" in captions[0]
    assert "seed 0" in captions[2]


def test_variants_of_one_cost_each_stand_side_by_side(tmp_path: Path, captions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms without an axis are lines of one drift panel, and rows of the quality figure, with their calls where these differ."""
    drawn: dict[str, list[str]] = {"drift": [], "quality": []}
    drift, variants = analysis.figures.drift_figure, analysis.variant_figures.variant_figure

    def drift_seen(panels: Any, **options: Any) -> Any:
        drawn["drift"] = [f"{panel.title} {name}" for panel in panels for name in panel.curves]
        return drift(panels, **options)

    def variants_seen(points: Any, **options: Any) -> Any:
        drawn["quality"] = list(dict.fromkeys(points["group"]))
        return variants(points, **options)

    monkeypatch.setattr("analysis.figures.drift_figure", drift_seen)
    monkeypatch.setattr("analysis.variant_figures.variant_figure", variants_seen)
    arms = (
        "arms:\n  one: {sampler.num_steps: 1}\n  two: {sampler.num_steps: 2}\n  wide: {sampler.num_steps: 2, training.weight_decay: 0.2}\n"
    )
    saved, store = finished(tmp_path, planned(tmp_path, more=arms))
    write_report(saved, store, lambda text: None)
    assert drawn["drift"] == ["Pong one", "Pong two", "Pong wide"]
    assert drawn["quality"] == ["one (1 call)", "two (2 calls)", "wide (2 calls)"]
    assert any("network calls per frame: 1, 2" in caption for caption in captions)


def test_the_primary_metric_is_always_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """energy_score is no headline: the quality figure and the printed table show it where it is the primary metric."""
    panels: list[str] = []
    quality = analysis.figures.quality_figure

    def seen(points: Any, **options: Any) -> Any:
        panels.extend(dict.fromkeys(points["metric"]))
        return quality(points, **options)

    monkeypatch.setattr("analysis.figures.quality_figure", seen)
    plan = planned(tmp_path, ["sampler.num_steps=1,2"])
    plan = replace(plan, study=replace(plan.study, primary=replace(plan.study.primary, metric="energy_score")))
    store = Store(tmp_path / "outputs", say=lambda text: None)
    for spec in plan.jobs.values():
        finish(store, spec, scores={"energy_score": 0.125} if spec.kind == "evaluate_world_model" else None)
    saved = save_plan(plan, store.root)
    write_report(saved, store, lambda text: None)
    assert panels == ["energy_score", "drift"]
    print_results(saved, store, as_json=False)
    assert re.search(r"^game +variant +energy_score +drift ", capsys.readouterr().out, re.MULTILINE)


def test_values_that_are_finished_are_shown_where_the_last_one_is_not(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["sampler.num_steps=1,2", "training.weight_decay=0.1,0.2"])
    unfinished = [i for i, p in enumerate(plan.points) if p.axes["weight_decay"] == 0.2]
    saved, store = finished(tmp_path, plan, unfinished)
    at = "at-weight-decay-0.1"
    assert stems(write_report(saved, store, lambda text: None)) == {f"{name}-{at}" for name in (DRIFT, GRID, QUALITY)}


def test_groups_of_arms_and_the_training_have_figures_of_their_own(tmp_path: Path, captions: list[str]) -> None:
    arms = "arms:\n  old/a: {training.weight_decay: 0.1}\n  new/a: {training.weight_decay: 0.2}\n  new/b: {training.weight_decay: 0.3}\n"
    axes = "axes:\n  n: {key: sampler.num_steps, values: [1, 3, 5]}\n  trained: {key: evaluation.milestone, values: [0.5, 1.0]}\n"
    saved, store = finished(tmp_path, planned(tmp_path, more=arms + axes))
    drawn = stems(write_report(saved, store, lambda text: None))
    half = "at-trained-0.5"
    grouped = {f"{kind}-Pong-{group}{at}" for kind in ("trajectories", "quality") for group in ("old", "new") for at in ("", f"-{half}")}
    assert drawn == {"drift-Pong", f"drift-Pong-{half}", *grouped, "training-Pong-old", "training-Pong-new"}
    assert len(captions) == len(drawn)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (1, "no intervals: fewer than 3 seeds"),
        (2, "no intervals: fewer than 3 seeds"),
        (3, "intervals: 95% interval of the mean over seeds (Student's t)"),
    ],
)
def test_captions_claim_intervals_only_where_there_are_some(seeds: int, words: str, tmp_path: Path, captions: list[str]) -> None:
    axes = "axes:\n  n: {key: sampler.num_steps, values: [1, 2]}\n  trained: {key: evaluation.milestone, values: [0.5, 1.0]}\n"
    saved, store = finished(tmp_path, planned(tmp_path, [f"seeds={seeds}"], axes))
    write_report(saved, store, lambda text: None)
    of = [caption for caption in captions if "intervals" in caption]
    assert len(of) >= 2  # quality and training
    assert all(f"; {words}" in caption and "where" not in caption.partition("intervals")[2] for caption in of)


def test_captions_in_files_stay_until_they_are_refused(tmp_path: Path) -> None:
    """`report --captions` and then `open`, or the next sweep, must not draw the figures without them."""
    saved, store = finished(tmp_path, planned(tmp_path, []))
    said: list[str] = []
    for captions, times, in_files in ((None, 1, False), (True, 2, True), (None, 2, True), (False, 3, False), (None, 3, False)):
        files = write_report(saved, store, said.append, captions)
        assert said.count("drawing the report") == times
        (tex,) = (file.read_text() for file in files if file.name == f"{DRIFT}.tex")
        assert f"{{{DRIFT}.pdf}}" in tex
        assert ("trajector" in tex) != in_files  # either the PDF holds the caption, or LaTeX sets it


def test_differing_revisions_are_said_below_the_figures(tmp_path: Path, captions: list[str]) -> None:
    saved, store = finished(tmp_path, planned(tmp_path, ["execution.precision=fp32,bf16"]))
    write_report(saved, store, lambda text: None)
    assert all("mixed precisions: bf16, fp32" in caption for caption in captions)


def test_the_table_has_the_dataset_and_each_baseline_once(tmp_path: Path) -> None:
    saved, store = finished(tmp_path, planned(tmp_path, ["sampler.num_steps=1,2,3"]))
    table = collect(saved, store)
    unseeded = table[table["seed"].isna()]
    assert list(unseeded["variant"]) == ["dataset", "copy-last-frame"]  # whatever the last bits of each evaluation's baseline
    assert list(unseeded["metric"]) == ["dataset_return", "drift"]
    assert list(unseeded["job"]) == [saved.points[0].jobs["dataset"].id, ""]  # a baseline is of no one evaluation
    assert "dataset" in set(pivot(table)["variant"])
    assert "dataset" not in set(pivot(table, ["drift"])["variant"])


def test_the_chance_level_of_object_ranks_counts_the_starts_of_its_own_variant(tmp_path: Path) -> None:
    """Each model has its own starts at which objects were found, so one variant's chance level is not another's."""

    def table(chance: Mapping[str, float]) -> dict[str, float]:
        rows = []
        for name, value in chance.items():
            for seed in (0, 1):
                row = ["mine", "uniform-ranks", "Pong", None, "tiny", "world_model", "state_rank_deviation", str(value + seed / 8)]
                rows.append((name, row if name != "n=3" else [*row[:-1], value]))
        return {row[1]: row[7] for row in _by_variant(rows)}

    assert table({"n=1": 0.25, "n=2": 0.5}) == {"uniform-ranks, n=1": 0.3125, "uniform-ranks, n=2": 0.5625}
    assert table({"n=3": 0.25}) == {"uniform-ranks": 0.25}
    assert np.isnan(table({"n=1": 0.25, "n=3": float("nan")})["uniform-ranks, n=3"])


def test_json_holds_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(SafeConsole(), [{"a": [float("nan"), float("inf"), 1.5]}, {"b": ({"c": -float("inf")},)}])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [{"a": [None, None, 1.5]}, {"b": [{"c": None}]}]


def test_rates_are_measured_on_jobs_of_the_same_device_and_network_alone(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["execution.device=cpu"])
    store = Store(tmp_path / "outputs", say=lambda text: None)
    for spec in plan.jobs.values():
        finish(store, spec)
    same = planned(tmp_path, ["execution.device=cpu", "training.num_steps=13"])
    assert "train_world_model measured" in estimate(same.jobs, same.jobs, store).basis
    for other in (["execution.device=cuda"], ["execution.device=cpu", "network.channels=[16,16,16,16]"]):
        plan = planned(tmp_path, ["training.num_steps=13", *other])
        assert "measured" not in estimate(plan.jobs, plan.jobs, store).basis


def test_the_estimate_counts_what_is_kept_and_what_passes(tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs", say=lambda text: None)

    def cost(*tokens: str) -> tuple[float, float, float]:
        plan = plan_study("sampling_steps", ["games=[Pong]", "seeds=1", "sampler.num_steps=3", "execution.device=cpu", *tokens])
        found = estimate(plan.jobs, [p.jobs["evaluation"] for p in plan.points], store)
        return found.device_hours, found.gigabytes, found.passing_gigabytes

    hours, kept, passing = cost()
    assert passing == pytest.approx(8192 * 20_000 / 1e9)  # features of imagined frames; those of true frames are a job of their own
    assert 400 * 1000 * 64 / 1e9 < kept < 0.2
    assert cost("metrics=[drift]")[0] < hours
    assert cost("metrics=[drift]", "evaluation.num_one_step=0")[0] > cost("metrics=[drift]")[0]
    plan = plan_study("sampling_steps", ["games=[Pong]"])
    data = estimate(plan.jobs, [plan.points[0].jobs["dataset"]], store)
    assert 0.1 < data.gigabytes < 0.5


@pytest.mark.slow
def test_ten_thousand_finished_jobs_are_collected_in_twenty_seconds(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["seeds=1667", "sampler.num_steps=1,2,3,5,10"])
    store = Store(tmp_path / "outputs", say=lambda text: None)
    rows = [{"metric": f"metric {i}", "value": 0.5 + i, "measured": False, "baseline": ""} for i in range(30)]
    copied = {"metric": "drift", "value": 0.06, "measured": False, "baseline": "copy-last-frame"}
    for ref in plan.jobs:
        content = sealed({"id": ref.id, "rows": [*rows, copied], "info": {}, "recorded": {"revision": 1}, "files": {}})
        store.folder(ref).mkdir(parents=True)
        write_json(store.folder(ref) / "result.json", content, durable=False)
        write_json(store.folder(ref) / "state.json", {"status": "done", **result_stamp(store.folder(ref))}, durable=False)
    saved = save_plan(plan, store.root)
    began = time.process_time()  # of a shared machine, the time that is ours
    table = collect(saved, store)
    save_results(table, saved.folder)
    assert time.process_time() - began < 20
    assert len(plan.jobs) > 10_000
    assert len(table) > 30 * 8335
