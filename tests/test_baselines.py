"""Baselines of evaluations with different settings: each has a row of its own, and figures draw the one that fits."""

from pathlib import Path

import pytest
from test_report import finish, planned

from diamond_bench.metrics.baselines import COPY_LAST, DATASET, STATE_PROBE, TRUE_DISTRIBUTION, TRUE_FRAMES
from diamond_bench.report.figures import study_figures
from diamond_bench.results.table import collect, finished_results, pivot
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import read_json, sealed, write_json
from diamond_bench.studies.baselines import baseline_variant, shared_variant
from diamond_bench.studies.plan import Plan, SavedPlan, load_plans, save_plan


def swept(plan: Plan, folder: Path) -> tuple[SavedPlan, Store]:
    """The plan with finished jobs; copy-last-frame's error is 0.5 + horizon / 100."""
    store = Store(folder / "outputs", say=lambda text: None)
    for spec in plan.jobs.values():
        finish(store, spec, noise=spec.config.evaluation.horizon / 100 if spec.kind == "evaluate_world_model" else 0.0)
    return save_plan(plan, store.root), store


def test_two_horizons_are_two_baselines(tmp_path: Path) -> None:
    saved, store = swept(planned(tmp_path, ["evaluation.horizon=4,8", "sampler.num_steps=1,2"]), tmp_path)
    table = collect(saved, store)
    copied = table[table["variant"].str.startswith(COPY_LAST)].set_index("variant")["value"].to_dict()
    assert copied == pytest.approx({"copy-last-frame, horizon=4": 0.54, "copy-last-frame, horizon=8": 0.58})
    lines = pivot(table, ["drift"]).set_index("variant")["drift"]
    assert lines["copy-last-frame, horizon=4"] == "0.54", "one number, and no interval over pooled settings"
    assert load_plans(store.root)[0].baseline_settings == saved.baseline_settings
    by_horizon = {point.axes["horizon"]: baseline_variant(saved, point, COPY_LAST) for point in saved.points}
    assert by_horizon == {4: "copy-last-frame, horizon=4", 8: "copy-last-frame, horizon=8"}
    assert shared_variant(saved, saved.points, COPY_LAST) is None
    assert baseline_variant(saved, saved.points[0], TRUE_DISTRIBUTION) == TRUE_DISTRIBUTION, "it does not depend on the horizon"


def test_a_quality_figure_draws_the_baseline_of_its_horizon(tmp_path: Path) -> None:
    axes = "axes: {T: {key: evaluation.horizon, values: [4, 8]}, n: {key: sampler.num_steps, values: [1, 2]}}\n"
    arms = "arms: {short/a: {evaluation.horizon: 4}, long/a: {evaluation.horizon: 8}}\n"
    levels = {}
    for name, more in (("arms", arms + "axes: {n: {key: sampler.num_steps, values: [1, 2]}}\n"), ("axes", axes)):
        (tmp_path / name).mkdir()
        saved, store = swept(planned(tmp_path / name, more=more), tmp_path / name)
        done = finished_results(saved, store)
        for figure in study_figures(saved, store, collect(saved, store), done):
            if figure.kind == "quality":
                drawn = figure.draw()
                assert drawn is not None
                panel = next(ax for ax in drawn.figure.axes if ax.get_title().startswith("drift"))
                found = [line for line in panel.get_lines() if line.get_label() == "copy last frame"]
                levels[figure.stem] = [float(line.get_ydata()[0]) for line in found]
    assert levels["quality-Pong-short"] == pytest.approx([0.54])
    assert levels["quality-Pong-long"] == pytest.approx([0.58])
    assert levels["quality-Pong"] == [], "both horizons in one figure share no baseline"


def test_one_setting_keeps_the_plain_names(tmp_path: Path) -> None:
    saved, store = swept(planned(tmp_path, ["evaluation.batch_size=1,2", "sampler.num_steps=1,2"]), tmp_path)
    assert saved.baseline_settings == {}
    table = collect(saved, store)
    assert list(table[table["seed"].isna()]["variant"]) == ["dataset", COPY_LAST]


def test_two_datasets_of_a_game_are_distinguished(tmp_path: Path) -> None:
    saved, store = swept(planned(tmp_path, ["data.epsilon=0.5,1.0"]), tmp_path)
    table = collect(saved, store)
    unseeded = set(table[table["seed"].isna()]["variant"])
    assert unseeded == {f"{name}, data.epsilon={value}" for name in (DATASET, COPY_LAST) for value in (0.5, 1.0)}


def test_the_number_of_images_is_of_true_frames_alone(tmp_path: Path) -> None:
    metrics = ["metrics=[drift,fid]", "evaluation.num_trajectories=3", "evaluation.horizon=700", "data.reference_horizon=700"]
    plan = planned(tmp_path, [*metrics, "evaluation.num_fid_images=2048,2100", "data.num_train_frames=3000"])
    saved = save_plan(plan, tmp_path)
    names = {baseline: {baseline_variant(saved, point, baseline) for point in saved.points} for baseline in (TRUE_FRAMES, COPY_LAST)}
    assert names[TRUE_FRAMES] == {"true-frames, num_fid_images=2048", "true-frames, num_fid_images=2100"}
    assert names[COPY_LAST] == {COPY_LAST}


def test_errors_of_state_of_two_probes_are_two_baselines(tmp_path: Path) -> None:
    """The probe reads the copied frames too, so the errors of copying depend on it: in the rows of the metric state, and in no others."""
    plan = planned(tmp_path, ["metrics=[drift,state]", "probe.num_steps=10,20", "sampler.num_steps=1,2"])
    saved, store = swept(plan, tmp_path)
    for point in saved.points:
        number = plan.jobs[point.jobs["state_probe"]].config.probe.num_steps
        file = store.folder(point.jobs["evaluation"]) / "result.json"
        result = read_json(file)
        for metric, baseline in (("state_position_error", ""), ("state_position_error", COPY_LAST), ("state_crps", STATE_PROBE)):
            result["rows"].append({"metric": metric, "value": number / 10, "measured": False, "baseline": baseline})
        write_json(file, sealed({name: value for name, value in result.items() if name != "sha256"}))
    table = collect(saved, store)
    copied = table[table["variant"].str.startswith(COPY_LAST)].set_index(["variant", "metric"])["value"].to_dict()
    horizon = next(spec.config.evaluation.horizon for spec in plan.jobs.values() if spec.kind == "evaluate_world_model")
    assert copied == {
        (COPY_LAST, "drift"): 0.5 + horizon / 100,
        (f"{COPY_LAST}, probe.num_steps=10", "state_position_error"): 1.0,
        (f"{COPY_LAST}, probe.num_steps=20", "state_position_error"): 2.0,
    }
    assert shared_variant(saved, saved.points, COPY_LAST) == COPY_LAST
    assert shared_variant(saved, saved.points, COPY_LAST, "state_crps") is None
    levels: dict[str, list[float]] = {}
    for figure in study_figures(saved, store, table, finished_results(saved, store)):
        if figure.kind == "quality":
            drawn = figure.draw()
            assert drawn is not None
            for ax in drawn.figure.axes:
                found = [line for line in ax.get_lines() if line.get_label() == "copy last frame"]
                levels[" ".join(ax.get_title().split()).partition(" (")[0]] = [float(line.get_ydata()[0]) for line in found]
    assert levels == {"drift": pytest.approx([0.5 + horizon / 100]), "object position error": []}
