"""The report of a study of agents, from jobs that are written, not run: settings, aggregates, figures, clips, protocol, comparison."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rewritten import list_again, rewrite_arrays
from test_html_report import Page

from analysis.aggregates import corrected_intervals, intervals, point_estimates
from analysis.comparison import UNDECIDED
from analysis.media import write_video
from analysis.scores import human_random
from diamond_bench import api
from diamond_bench.errors import UserError
from diamond_bench.report import write_report
from diamond_bench.report.aggregates import _below, _intervals
from diamond_bench.report.answers import study_answers
from diamond_bench.report.comparison import compare_study
from diamond_bench.report.facts import config_differences, gather
from diamond_bench.report.pictures import CLIP_BYTES
from diamond_bench.results.table import protocol_records
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import read_json
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.studies.plan import Plan, SavedPlan, plan_study, save_plan

pytestmark = pytest.mark.usefixtures("unrendered")

Hns = Callable[[str, int, int], float]
"""Of a game, a number of steps and a seed."""


def study(folder: Path, *tokens: str, games: str = "Pong, Boxing", steps: str = "[1, 3]", primary: str = "{metric: hns}") -> Plan:
    file = folder / "agents.yaml"
    axes = f"axes: {{n: {{key: sampler.num_steps, values: {steps}}}}}"
    file.write_text(f"question: x\nprotocol: agent\ngames: [{games}]\nseeds: 5\nprimary: {primary}\n{axes}\n")
    return plan_study(str(file), ["scale=tiny", *tokens])


def played(
    folder: Path,
    plan: Plan,
    hns: Hns,
    revision: Callable[[JobSpec], int] = lambda spec: 1,
    lacking: Callable[[Any], bool] = lambda p: False,
) -> tuple[SavedPlan, Store]:
    """The plan finished, save the evaluations of `lacking` points."""
    store = Store(folder / "outputs", say=lambda text: None)
    left, norm = {p.jobs["evaluation"] for p in plan.points if lacking(p)}, human_random()
    for ref, spec in plan.jobs.items():
        if ref in left:
            continue
        store.prepare(spec)
        claim = store.claim(ref)
        assert claim is not None
        training = spec if spec.kind == "train_agent" else plan.jobs[spec.inputs["agent"]]
        game, steps, seed = training.config.game, training.config.sampler.num_steps, training.config.seed
        rows: Mapping[str, float]
        if spec.kind == "train_agent":
            course = {"test_real_steps": np.array([100.0, 200.0 + seed]), "test_return": np.array([0.0, float(steps)])}
            np.savez(claim.folder / "arrays.npz", **course)
            rows, info = {"training_seconds": 10.0 * steps, "real_steps": 1000.0 + seed}, {}
        else:
            value = hns(game, steps, seed)
            raw = norm["random"][game] + value * (norm["human"][game] - norm["random"][game])
            rows = {"test_return": raw, "hns": value}
            environment = f"{game}NoFrameskip-v4"
            record = {"environment": environment, "sticky_actions": 0.0, "episodes_cut": seed, "real_steps": 1000 + seed}
            info = {"protocol_record": record}
        plain = [{"metric": m, "value": v, "measured": m.endswith("seconds"), "baseline": ""} for m, v in rows.items()]
        claim.finish({"rows": plain, "info": info, "recorded": {"revision": revision(spec), "device": "cpu"}})
    return save_plan(plan, store.root), store


def rising(game: str, steps: int, seed: int) -> float:
    return steps + 0.1 * seed + (0.5 if game == "Pong" else 0.0)


def words_of(saved: SavedPlan, store: Store) -> str:
    return Page(write_report(saved, store, lambda text: None)[0].read_text()).words


def test_variants_differ_in_what_their_agents_were_trained_with(tmp_path: Path) -> None:
    """The evaluation has a sampler too, neutral where it films nothing: it may not hide the training's."""
    saved, store = played(tmp_path, study(tmp_path), rising)
    facts = gather(saved, store)
    shown = config_differences(saved, facts).set_index("variant")
    assert shown["sampler.num_steps"].to_dict() == {"n=1": "1", "n=3": "3"}
    assert {name: costs["calls_per_frame"]["Pong"] for name, costs in facts.costs.items()} == {"n=1": 1.0, "n=3": 3.0}


def test_the_answer_is_in_human_normalised_score_with_the_cost_of_imagining(tmp_path: Path) -> None:
    plan = study(tmp_path, primary="{metric: hns, baseline: {n: 1}, margin: 0.1}")
    saved, store = played(tmp_path, plan, rising)
    (row,) = compare_study(saved, store, gather(saved, store)).table.to_dict("records")  # returns of two games have no scale in common
    assert (row["status"], row["metric"], row["verdict"]) == ("primary", "hns", "better")
    assert (row["nfe_ratio"], row["training_ratio"]) == (3.0, 3.0)
    with pytest.raises(UserError, match=r"test_return.*cannot be pooled; take 'hns'"):
        compare_study(saved, store, gather(saved, store), metrics=["test_return"])
    one = study(tmp_path, "games=[Pong]", primary="{metric: hns, baseline: {n: 1}}")
    saved, store = played(tmp_path / "one", one, rising)
    assert len(compare_study(saved, store, gather(saved, store), metrics=["test_return"]).table) == 1
    assert set(compare_study(saved, store, gather(saved, store)).table["metric"]) == {"hns"}  # the return says the same of one game


def test_a_primary_metric_that_cannot_be_pooled_has_no_answer(tmp_path: Path) -> None:
    plan = study(tmp_path, "games=[Pong,Boxing]", games="Pong", primary="{metric: test_return, baseline: {n: 1}}")
    saved, store = played(tmp_path, plan, rising)
    found = compare_study(saved, store, gather(saved, store))
    assert "another scale in each game" in found.problem
    assert set(found.table["metric"]) == {"hns"}


def test_costs_are_of_the_games_that_both_sides_have(tmp_path: Path) -> None:
    plan = study(tmp_path, primary="{metric: hns, baseline: {n: 1}}")
    saved, store = played(tmp_path, plan, rising)
    facts = gather(saved, store)
    table = facts.table[~((facts.table["variant"] == "n=1") & (facts.table["game"] == "Boxing"))].copy()
    table.loc[(table["metric"] == "training_seconds") & (table["game"] == "Boxing"), "value"] = 9999.0
    (row,) = compare_study(saved, store, type(facts)(**{**vars(facts), "table": table})).primary.to_dict("records")
    assert row["training_ratio"] == 3.0
    assert row["verdict"] == UNDECIDED


def test_aggregates_are_those_of_the_scores(tmp_path: Path) -> None:
    saved, store = played(tmp_path, study(tmp_path), rising)
    words = words_of(saved, store)
    shown = words[words.index("Aggregates", words.index("Reproduce")) :]
    runs = np.array([[rising(game, 3, seed) for game in ("Boxing", "Pong")] for seed in range(5)])
    values, ends, plain = point_estimates(runs), corrected_intervals(runs, 0), intervals(runs, 0)
    for name in ("mean", "median", "iqm"):
        assert f"{values[name]:.3f}{ends[name][0]:.3f} to {ends[name][1]:.3f}" in shown
        assert f"{plain[name][0]:.3f} to {plain[name][1]:.3f}" not in shown  # too narrow for five runs
    assert "optimality_gap" not in ends  # every run is above human
    assert "5 × 2" in shown


def test_aggregates_say_what_their_intervals_attain_and_withhold_what_attains_too_little() -> None:
    assert _below(0.1, 0.3, 0.94, 0.96) == ["0.100 to 0.300"]
    assert _below(0.1, 0.3, 0.88, 0.94) == ["0.100 to 0.300", "attains 88 to 94%"]
    assert _below(0.1, 0.3, 0.98, 0.984) == ["0.100 to 0.300", "attains 98%"]
    assert _below(0.1, 0.3, 0.60, 0.94) == ["interval withheld: attains 60 to 94%"]
    rare = np.array([[1.02, 3.0], [1.0, 3.1], [0.97, 3.2], [1.05, 3.3], [1.04, 3.4]])
    low, high, least, _ = _intervals(rare)["optimality_gap"]
    assert low == 0.0  # a gap is not negative
    assert high > 0.0
    assert least < 0.93  # the gap rests on rare runs below human


def test_aggregates_that_would_not_be_honest_are_refused_in_a_sentence(tmp_path: Path) -> None:
    unequal = study(tmp_path, "seeds=3")
    saved, store = played(tmp_path, unequal, rising, lacking=lambda p: p.variant == "n=3" and p.game == "Pong" and p.seed == 2)
    assert "No aggregate of n=3: n=3 (agents) has unequal numbers of runs" in words_of(saved, store)
    mixed = study(tmp_path, "seeds=3")
    odd = {p.jobs["evaluation"] for p in mixed.points if p.seed == 1 and p.variant == "n=1"}
    saved, store = played(tmp_path / "mixed", mixed, rising, revision=lambda spec: 2 if spec.ref in odd else 1)
    assert "No aggregate of n=1: n=1 (agents) mixes 2 values of revision" in words_of(saved, store)


def test_one_variant_has_results_and_no_missing_answer(tmp_path: Path) -> None:
    saved, store = played(tmp_path, study(tmp_path, "seeds=2", steps="[3]"), rising)
    words = words_of(saved, store)
    assert "No answer" not in words
    assert "Nothing to compare: the study has one variant, n=3." in words
    said = study_answers(saved, store, gather(saved, store))  # as the page, which says nothing of a registration here
    assert said == ["Nothing to compare: the study has one variant, n=3."]
    assert "2 × 2" in words
    assert "0 is random play" in words


def test_the_page_says_the_protocol_once_with_what_runs_came_to(tmp_path: Path) -> None:
    saved, store = played(tmp_path, study(tmp_path), rising)
    (line,) = protocol_records(saved, store)
    end = "sticky actions: 0.0; episodes cut: 0 to 4; real steps: 1000 to 1004"
    assert line == f"protocol: environment: <game>NoFrameskip-v4; {end}"
    assert end in words_of(saved, store)


def test_agents_have_figures_and_the_clips_that_were_filmed(tmp_path: Path) -> None:
    plan = study(tmp_path, "seeds=2")
    saved, store = played(tmp_path, plan, rising)
    film = tmp_path / "film.mp4"
    write_video(np.zeros((5, 32, 64, 3), np.uint8), film)
    filmed = next(p for p in plan.points if p.game == "Pong" and p.variant == "n=3" and p.seed == 1)
    large = next(p for p in plan.points if p.game == "Boxing" and p.variant == "n=3")
    for point, data in ((filmed, film.read_bytes()), (large, bytes(CLIP_BYTES + 1))):
        media = store.folder(point.jobs["evaluation"]) / "media"
        media.mkdir()
        (media / "episode.mp4").write_bytes(data)
        list_again(store, point.jobs["evaluation"], "media/episode.mp4")
    files = write_report(saved, store, lambda text: None)
    assert {file.stem for file in files if file.suffix == ".png"} == {"scores", "learning"}
    page = Page(files[0].read_text())
    assert len(page.all("img")) == 2
    assert len(page.all("video")) == 1
    assert "Pong, n=3, seed 1: the beginning of its first final episode" in page.words
    assert "The clip of Boxing, n=3 is left out" in page.words
    drawn = api.figure("agents", "learning", "scale=tiny", output_dir=store.root)
    lines = {ax.get_title(): [list(line.get_ydata()) for line in ax.lines] for ax in drawn.axes}
    assert lines == {"Pong": [[0.0, 1.0], [0.0, 3.0]], "Boxing": [[0.0, 1.0], [0.0, 3.0]]}


def test_agents_that_were_never_tested_have_no_learning_curve_and_no_damage(tmp_path: Path) -> None:
    plan = study(tmp_path, "seeds=1")
    saved, store = played(tmp_path, plan, rising)
    for point in plan.points:
        rewrite_arrays(store, point.jobs["agent"], "arrays.npz")
    files = write_report(saved, store, lambda text: None)
    assert {file.stem for file in files if file.suffix == ".png"} == {"scores"}
    assert store.state(plan.points[0].jobs["agent"]).status == "done"


def test_more_variants_than_a_figure_can_show_are_named(tmp_path: Path) -> None:
    plan = study(tmp_path, "seeds=1", "games=[Pong]", steps=str(list(range(1, 15))))
    saved, store = played(tmp_path, plan, rising)
    write_report(saved, store, lambda text: None)
    notes = read_json(saved.folder / "report" / "report.json")["notes"]
    assert any("scores is left out: 14 variants" in note for note in notes)


def test_only_the_variants_that_the_file_names_answer_it(tmp_path: Path) -> None:
    """Five unpaired runs of one game: 2/252 can answer about one variant, not about seven."""
    steps = "[1, 2, 3, 4, 5, 6, 7, 8]"
    spread = lambda game, n, seed: 10.0 * n + seed  # noqa: E731
    every = study(tmp_path, "games=[Pong]", steps=steps, primary="{metric: hns, baseline: {n: 1}, margin: 0.1}")
    saved, store = played(tmp_path, every, spread)
    all_of_them = compare_study(saved, store, gather(saved, store)).primary
    assert len(all_of_them) == 7
    assert set(all_of_them["verdict"]) == {UNDECIDED}
    named = study(tmp_path, "games=[Pong]", steps=steps, primary="{metric: hns, baseline: {n: 1}, margin: 0.1, variants: {n: [3, 4]}}")
    saved = save_plan(named, store.root)
    found = compare_study(saved, store, gather(saved, store))
    assert list(found.primary["variant"]) == ["n=3", "n=4"]
    assert list(found.primary["verdict"]) == ["better", "better"]
    assert list(found.primary["p_holm"]) == pytest.approx([4 / 252] * 2)
    rest = found.table[found.table["status"] == "exploratory"]
    assert list(rest["variant"]) == ["n=2", "n=5", "n=6", "n=7", "n=8"]
    assert list(rest["p_holm"]) == pytest.approx([10 / 252] * 5)
    assert set(found.baselines) == {"n=3", "n=4"}
    assert found.problem == ""


def test_mixed_revisions_are_not_compared_and_differing_ones_are_said(tmp_path: Path) -> None:
    plan = study(tmp_path, steps="[1, 2, 3]", primary="{metric: hns, baseline: {n: 1}}")
    of = {p.jobs["evaluation"]: p for p in plan.points}

    def revision(spec: JobSpec) -> int:
        point = of.get(spec.ref)
        return 1 if point is None or point.variant == "n=1" else 2 if point.variant == "n=2" or point.seed > 1 else 1

    saved, store = played(tmp_path, plan, rising, revision)
    rows = compare_study(saved, store, gather(saved, store)).primary.set_index("variant")
    assert rows.loc["n=2", "missing"] == "revisions differ: evaluate_agent 2 against 1"
    assert rows.loc["n=2", "verdict"] == "better"
    assert rows.loc["n=3", "missing"].startswith("n=3 mixes revisions (evaluate_agent 1 and 2), so it is not compared")
    assert rows.loc["n=3", "verdict"] == UNDECIDED
    assert pd.isna(rows.loc["n=3", "difference"])


@pytest.mark.parametrize("margin", [-1, float("nan"), float("inf"), "big", True])
def test_a_margin_that_is_none_is_a_user_s_mistake(margin: Any, tmp_path: Path) -> None:
    _, store = played(tmp_path, study(tmp_path, "seeds=1", "games=[Pong]", primary="{metric: hns, baseline: {n: 1}}"), rising)
    with pytest.raises(UserError, match="margin="):
        api.compare("agents", "scale=tiny", output_dir=store.root, margin=margin)


def test_one_run_is_one_run(tmp_path: Path) -> None:
    saved, store = played(tmp_path, study(tmp_path, "seeds=1", primary="{metric: hns, baseline: {n: 1}}"), rising)
    assert "2 runs against 2." in words_of(saved, store)
    saved, store = played(tmp_path / "one", study(tmp_path, "seeds=1", "games=[Pong]", primary="{metric: hns, baseline: {n: 1}}"), rising)
    assert "1 run against 1." in words_of(saved, store)
