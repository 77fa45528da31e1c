"""Methods outside the paper and published curves: shown where they are asked for, and never ranked by their training episodes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import ROOT, in_this_process
from scipy import stats
from test_paper_agents import swept

from analysis.aggregates import ScoreError, point_estimates
from analysis.score_curves import CURVE_COLUMNS, published_curves, runs_of_curve, training_only
from analysis.scores import (
    MAX_RUNS,
    between_footnotes,
    entries,
    footnotes,
    human_random,
    protocol,
    published,
    read_scores,
    runs_by_game,
    score_matrix,
    select,
    with_hns,
)
from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.answerable import MAX_SEEDS, limits
from diamond_bench.studies.plan import as_saved, plan_study
from paper_figures.build import build_paper
from paper_figures.inputs import load
from paper_figures.methods import MORE_RUNS, asked_for
from paper_figures.parts import Inputs
from paper_figures.registry import ARTIFACTS

pytestmark = pytest.mark.usefixtures("unrendered")

HARMONY, HORIZON = "HarmonyDream (DreamerV3)", "Horizon Imagination (nu=4, B=32)"
REFUSED = r"Horizon Imagination \(nu=4, B=32\).*returns of training episodes; rankings and aggregates are of test episodes"


def build(
    out: Path,
    *artifacts: str,
    methods: Sequence[str] = (),
    results: Sequence[str] = (),
    scores: Path | None = None,
    store: Path | None = None,
) -> list[str]:
    """What was said."""
    said: list[str] = []
    kept = Store(store or out.parent / "no-store", say=lambda text: None)
    build_paper(artifacts, results, scores, out, kept, said.append, lambda done, total, text: None, methods)
    return said


def notes_of(out: Path, artifact: str) -> str:
    return " ".join(json.loads((out / "index.json").read_text())["artifacts"][artifact]["footnotes"])


# The data


def test_what_curves_are_shipped() -> None:
    curves = published_curves()
    assert tuple(curves.columns) == CURVE_COLUMNS
    assert len(curves) == 9430
    assert not curves.isna().any(axis=None)
    assert set(curves["game"]) == set(human_random().index)
    kinds = curves.groupby("method")["episodes"].unique().map(list).to_dict()
    assert {method for method, of in kinds.items() if of == ["test"]} == {HARMONY, "DreamerV3 (HarmonyDream reproduction)"}
    assert training_only() == sorted(method for method, of in kinds.items() if of == ["training"])
    assert len(training_only()) == 4
    assert not set(training_only()) & set(published()["method"])


def test_a_run_s_last_evaluation_is_its_published_score() -> None:
    """The curves of HarmonyDream are evaluations of 100 test episodes: hundredths, and the last one is the score that is ranked."""
    curves = published_curves().query("episodes == 'test'")
    assert (curves["score"] * 100).round(6).mod(1).eq(0).all()
    last = curves[curves["real_steps"] == 100_000].set_index(["method", "game", "seed"])["score"]
    scores = published().set_index(["method", "game", "seed", "source"])["score"]
    ranked = scores[scores.index.get_level_values("source") == "HarmonyDream repo dreamerv3-jax/scores"].droplevel("source")
    assert len(last) == 260
    pd.testing.assert_series_equal(last.sort_index(), ranked.sort_index(), check_names=False)


@pytest.mark.parametrize("entry", [*entries(published_curves()), *entries(published())], ids=str)
def test_every_new_method_has_a_protocol_and_footnotes(entry: object) -> None:
    method, source = entry.method, entry.source  # type: ignore[attr-defined]
    if method in (*training_only(), "Simulus", "REM", "TWM", HARMONY, "DreamerV3 (HarmonyDream reproduction)"):
        record = protocol(method, source)
        assert record is not None
        assert {"environment id", "sticky actions", "no-ops", "test policy", "episodes averaged", "life loss"} <= set(record)
        assert footnotes(method, source)


# Refused in rankings


def test_training_episodes_are_refused_where_scores_are_aggregated() -> None:
    curve = published_curves().query("method == @HORIZON")
    with pytest.raises(ScoreError, match=REFUSED):
        select(published(), HORIZON, "Horizon Imagination repo results/scores")
    last = curve.sort_values("real_steps").groupby(["game", "seed"]).tail(1)
    for frame in (curve, last, last.drop(columns="real_steps")):
        with pytest.raises(ScoreError, match=REFUSED):
            score_matrix(with_hns(frame), games=["Boxing"])
    with pytest.raises(ScoreError, match="points of a learning curve are no final scores"):
        runs_by_game(published_curves().query("method == @HARMONY"), "score")


@pytest.mark.parametrize("artifact", [name for name, artifact in ARTIFACTS.items() if artifact.ranks])
def test_training_episodes_are_refused_in_every_ranking(artifact: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=REFUSED + f".*; ask for that alone, without {artifact}$"):
        build(tmp_path / "paper", "sample_efficiency", artifact, methods=[HORIZON])
    assert not (tmp_path / "paper").exists()


def test_every_artifact_with_published_scores_is_a_ranking() -> None:
    assert {name for name, artifact in ARTIFACTS.items() if artifact.ranks} == {
        *("table1", "figure2", "table4", "figure5", "figure7", "table6", "table7"),
        *("probability_of_improvement", "optimality_gap", "per_game"),
    }


def test_the_command_refuses_with_one_message(tmp_path: Path) -> None:
    done = in_this_process("paper", "table1", "--method", HORIZON, "--out", "paper", cwd=tmp_path, exit_code=2)
    assert "returns of training episodes" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_method_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--method simuls: unknown published method: did you mean Simulus"):
        build(tmp_path / "paper", "table1", methods=["simuls"])


def test_a_score_file_cannot_pass_training_episodes_off_as_scores(tmp_path: Path) -> None:
    head = "method,game,seed,score,source\n"
    (tmp_path / "a.csv").write_text(f'{head}"{HORIZON}",Boxing,0,50,Horizon Imagination repo results/scores\n')
    with pytest.raises(ScoreError, match="is shipped already"):
        read_scores(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text(f'{head}"{HORIZON}",Boxing,0,50,my copy\n')
    assert any("returns of training episodes alone are published" in flag for flag in read_scores(tmp_path / "b.csv").flags)


# Shown where they are asked for


def test_methods_asked_for_are_columns_with_their_footnotes(tmp_path: Path) -> None:
    out = tmp_path / "paper"
    build(out, "table1", "figure7", "optimality_gap", methods=["Simulus", "TWM"])
    found = pd.read_csv(out / "table1.csv").set_index("Game")
    simulus, twm = found["Simulus (Simulus repo results/data/atari)"], found["TWM (TWM repo results)"]
    assert simulus[["Superhuman games", "Mean HNS", "IQM HNS"]].round(3).tolist() == [13, 1.645, 0.990]
    assert twm[["Superhuman games", "Mean HNS", "IQM HNS"]].round(3).tolist() == [8, 0.956, 0.459]
    assert np.isnan(found["TWM"]["IQM HNS"])  # Table 1's own column stays one of means
    assert "TWM (TWM repo results)" in set(pd.read_csv(out / "figure7.csv")["method"])
    assert pd.read_csv(out / "optimality_gap.csv")["Method"].is_unique  # it shows them anyway
    notes = notes_of(out, "table1")
    assert "cannot reproduce it" in notes
    assert "Protocols differ in no-ops" in notes
    assert "--method Simulus --method TWM" in (out / "index.md").read_text()


# Sample efficiency


@pytest.fixture(scope="module")
def efficiency(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("efficiency") / "paper"
    build(out, "sample_efficiency")
    return out


def test_published_curves_are_drawn_and_each_kind_of_episodes_alone(efficiency: Path) -> None:
    for kind in ("test", "training"):
        assert (efficiency / f"sample_efficiency-published-{kind}.png").stat().st_size > 10_000
    found = pd.read_csv(efficiency / "sample_efficiency.csv")
    assert found.groupby("episodes")["games"].unique().map(list).to_dict() == {"test": [26], "training": [4]}
    assert set(found["runs"]) == {5}
    assert all(kind in variant for kind, variant in zip(found["episodes"], found["variant"], strict=True))
    end = found[found["real_steps"] == 100_000].set_index("variant")
    assert end["iqm"].round(4).to_dict() == {
        f"{HARMONY}: test episodes": 0.6068,
        "DreamerV3 (HarmonyDream reproduction): test episodes": 0.4720,
    }
    assert (found["low"] <= found["iqm"]).all()
    assert (found["iqm"] <= found["high"]).all()
    notes = notes_of(efficiency, "sample_efficiency")
    assert "returns of training episodes do not compare with scores of test episodes" in notes
    assert "naive actions): Boxing, seed 0: left out, it stops after 23,200 steps" in notes
    assert "two courses" in notes


def test_a_training_curve_is_the_iqm_of_what_each_run_last_returned(efficiency: Path) -> None:
    found = pd.read_csv(efficiency / "sample_efficiency.csv").query("variant == @HORIZON + ': training episodes'").set_index("real_steps")
    at, norm = found.index[50], human_random()
    curve = published_curves().query("method == @HORIZON and real_steps <= @at")
    last = curve.sort_values("real_steps").groupby(["game", "seed"]).tail(1)
    hns = (last["score"] - last["game"].map(norm["random"])) / (last["game"].map(norm["human"]) - last["game"].map(norm["random"]))
    assert len(hns) == 20
    assert found.loc[at, "iqm"] == pytest.approx(stats.trim_mean(hns, 0.25))


def test_runs_of_a_curve() -> None:
    rows = [("A", "Pong", 0, 1, 2.0), ("A", "Pong", 0, 10, 6.0), ("A", "Pong", 0, 10, 8.0), ("A", "Pong", 1, 5, 1.0)]
    frame = pd.DataFrame(rows, columns=list(CURVE_COLUMNS[:5])).assign(episodes="training", source="here")
    found, notes = runs_of_curve(frame, ["Pong"])
    ((steps, scores),) = found["Pong"]
    assert (steps.tolist(), scores.tolist()) == ([1, 10], [2.0, 7.0])
    assert notes == ["Pong, seed 1: left out, it stops after 5 steps"]
    with pytest.raises(ScoreError, match=r"no curve of 1 of 2 games is published \(Boxing\)"):
        runs_of_curve(frame, ["Pong", "Boxing"])
    with pytest.raises(ScoreError, match="got 2"):
        runs_of_curve(pd.concat([frame, frame.assign(episodes="test")]), ["Pong"])


def test_curves_asked_for_are_lines_of_a_study_s_figure(tmp_path: Path) -> None:
    _, store = swept(tmp_path)
    build(tmp_path / "paper", "sample_efficiency", methods=[HARMONY, HORIZON, "REM"], results=["mine"], store=store.root)
    found = pd.read_csv(tmp_path / "paper" / "sample_efficiency.csv")
    on_two = found[(found["games"] == 2) & found["study"].isna()]
    assert set(on_two["variant"]) == {f"{HARMONY}: test episodes"}  # Horizon Imagination played no Pong
    notes = notes_of(tmp_path / "paper", "sample_efficiency")
    assert f"{HORIZON}: left out, no curve of 1 of 2 games is published (Pong)." in notes
    assert "REM: no learning curve is published." in notes
    assert f"{HARMONY}: protocol: environment id AtariEnv with frameskip=1; sticky actions 0; no-ops 0 to 29" in notes
    assert "mine (scale tiny*); 2 games, 3 to 5 runs of each" in notes


def test_kinds_of_episodes_in_one_figure_are_said_in_its_caption_and_legend(tmp_path: Path) -> None:
    plan, store = swept(tmp_path)
    study = load(as_saved(plan, store.root), store)
    only = replace(study.plan, points=tuple(point for point in study.plan.points if point.game == "Boxing"))
    inputs = Inputs(store, (replace(study, plan=only),), None, *asked_for([HARMONY, HORIZON]))
    drawn = ARTIFACTS["sample_efficiency"].make(inputs).figures["mine-tiny-changed"]
    assert drawn.warning == ""  # the lines of published methods are results
    assert "Scale tiny* demonstrates the pipeline, not a result" in drawn.caption
    assert "returns of training episodes do not compare with scores of test episodes" in drawn.caption
    (legend,) = [ax.get_legend() for ax in drawn.figure.axes]
    assert legend is not None
    named = [text.get_text().replace("\n", " ") for text in legend.get_texts()]
    assert named[:4] == ["n=1: no finding", "n=3: no finding", f"{HARMONY}: test episodes", f"{HORIZON}: training episodes"]


# More runs than anybody trains


def test_implausibly_many_runs_are_footnoted_where_scores_are_ranked(tmp_path: Path) -> None:
    games = list(human_random().index)
    rows = "".join(f"Ours,{game},{seed},{100.5 + seed},here\n" for game in games for seed in range(200))
    (tmp_path / "mine.csv").write_text("method,game,seed,score,source\n" + rows)
    said = build(tmp_path / "paper", "table1", scores=tmp_path / "mine.csv")
    assert any("more than 50 runs of a game" in text and "pseudo-replication" in text for text in said)
    assert "More than 50 runs of a game: Ours (here) (200)." in notes_of(tmp_path / "paper", "table1")


def test_the_known_hundred_runs_are_not_doubted_but_a_copy_is() -> None:
    curl = select(with_hns(published()), "CURL", "IRIS repo results/data")
    assert not [note for note in between_footnotes({"CURL": curl}) if "More than" in note]
    assert [
        note
        for note in between_footnotes({"mine": curl.assign(source="mine")})
        if f"More than {MAX_RUNS} runs of a game: mine (100)" in note
    ]
    few = curl[curl["seed"] < MAX_RUNS].assign(source="mine")
    assert not [note for note in between_footnotes({"mine": few}) if "More than" in note]


def test_a_study_of_implausibly_many_seeds_says_so_at_planning() -> None:
    assert MAX_SEEDS == MAX_RUNS
    (note,) = [text for text in limits(plan_study("sampling_steps", ["scale=tiny", "seeds=51"])) if "seeds a game" in text]
    assert note.startswith("51 seeds a game, more than 50: each seed is a whole training")
    assert "evaluation.num_trajectories" in note
    assert not [text for text in limits(plan_study("sampling_steps", ["scale=tiny", "seeds=50"])) if "seeds a game" in text]


def test_the_documentation_s_table_is_right() -> None:
    page = (ROOT / "docs" / "paper.md").read_text()
    lines = page.partition("| Method (`--method NAME`) |")[2].partition("\n\n")[0].splitlines()[2:]
    found = {cells[1].strip(" `"): [float(cell) for cell in cells[2:8]] for cells in (line.split("|") for line in lines)}
    scores = with_hns(published())
    assert set(found) == {method.name for method in MORE_RUNS}
    for method in MORE_RUNS:
        matrix = score_matrix(select(scores, method.name, method.runs))
        values = point_estimates(matrix)
        names = ("mean", "median", "iqm", "optimality_gap", "superhuman")
        assert found[method.name] == [len(matrix), *(round(values[name], 3) for name in names)]
