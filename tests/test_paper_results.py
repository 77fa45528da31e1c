"""Own results and scores in the paper's tables and figures, and what is refused."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import in_this_process

from analysis.scores import human_random
from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.studies.plan import Plan, SavedPlan, as_saved, plan_study, save_plan
from paper_figures.build import build_paper
from paper_figures.imagined import singles
from paper_figures.inputs import read
from paper_figures.parts import Inputs, StudyResults
from paper_figures.registry import ARTIFACTS

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("unrendered"),
]  # the shared store takes seconds on a quiet machine, minutes on a busy one

ALWAYS = ["all.tex", "index.json", "index.md"]


def build(out: Path, *artifacts: str, results: Sequence[str] = (), scores: Path | None = None, store: Path | None = None) -> list[Path]:
    kept = Store(store or out.parent / "no-store", say=lambda text: None)
    return build_paper(artifacts, results, scores, out, kept, lambda text: None, lambda done, total, text: None)


def index(out: Path) -> dict[str, dict]:
    return json.loads((out / "index.json").read_text())["artifacts"]


def column(out: Path, table: str, method: str) -> dict[str, float]:
    frame = pd.read_csv(out / f"{table}.csv").set_index("Game")
    return frame[method].to_dict()


# Own results

HORIZON = 8


@pytest.fixture(scope="module")
def with_results(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts with the results of `sampling_steps scale=tiny`, which ran for real."""
    out = tmp_path_factory.mktemp("own") / "paper"
    build(out, "figure3", "figure4", "figure8", "table8", "table1", results=["sampling_steps"], store=tiny_store)
    return out


def test_own_results_appear_with_study_variant_and_scale(with_results: Path, tiny_store: Path) -> None:
    table = pd.read_csv(with_results / "table8.csv")
    own = table[table["method"] == "sampling_steps: n=3"].iloc[0]
    assert (own["data"], own["label"]) == ("Breakout", "scale tiny, 1 run")
    assert np.isnan(own["fvd"])
    assert own["frames_per_second"] > 0
    for text in (
        (with_results / "table8.md").read_text(),
        (with_results / "figure4.md").read_text(),
        (with_results / "figure8.tex").read_text(),
    ):
        assert "scale tiny" in text
    assert "Breakout in place of the paper's Boxing" in (with_results / "figure4.md").read_text()
    source = next(source for source in index(with_results)["figure4"]["sources"])
    folders = {folder.name for folder in (tiny_store / "evaluate_world_model").iterdir()}
    assert (source["study"], source["scale"], set(source["jobs"])) == ("sampling_steps", "tiny", folders)
    (result,) = {
        json.loads((tiny_store / "evaluate_world_model" / job / "result.json").read_text())["recorded"]["commit"] for job in folders
    }
    assert source["commits"] == ([] if result is None else [result])


def test_drift_of_a_study_is_drawn_from_every_trajectory(with_results: Path, tiny_store: Path) -> None:
    found = pd.read_csv(with_results / "figure8.csv").set_index(["n", "t"])
    curves = []
    for folder in (tiny_store / "evaluate_world_model").iterdir():
        result = {row["metric"]: row["value"] for row in json.loads((folder / "result.json").read_text())["rows"] if not row["baseline"]}
        if result["nfe_per_frame"] == 3:
            curves.append(np.load(folder / "arrays.npz")["drift"].astype(np.float64))
    (drift,) = curves
    for t in (1, HORIZON):
        assert found.loc[(3, t), "mean"] == pytest.approx(drift[:, t - 1].mean())
        assert found.loc[(3, t), "standard_deviation"] == pytest.approx(drift[:, t - 1].std(ddof=1))
    assert (found["trajectories"] == len(drift)).all()


def test_what_own_results_lack_is_said_with_a_command(with_results: Path) -> None:
    entries = index(with_results)
    assert entries["figure3"]["files"] == []
    assert entries["figure3"]["lacks"][0]["command"] == "diamond-bench sweep diffusion_objective scale=small"
    assert entries["figure4"]["lacks"][0]["command"] == "diamond-bench sweep sampling_steps scale=tiny 'games=[Breakout,Boxing]'"
    assert [head for head in pd.read_csv(with_results / "table1.csv").columns if "sampling" in head] == []  # no agent ran


def test_a_swept_study_that_was_not_asked_for_is_named(tiny_store: Path, tmp_path: Path) -> None:
    build(tmp_path / "paper", "figure4", store=tiny_store)
    (lack,) = index(tmp_path / "paper")["figure4"]["lacks"]
    assert lack["command"] == "diamond-bench paper figure4 --results sampling_steps:tiny"


def test_a_command_that_lacks_name_makes_what_lacks(tmp_path: Path) -> None:
    plan = plan_study("sampling_steps", ["scale=tiny", "data=random", "training.num_steps=13"])
    store = Store(tmp_path / "outputs", say=lambda text: None)
    for number_of_job, spec in enumerate(plan.jobs.values()):
        finish(store, spec, number_of_job)
    assert save_plan(plan, store.root).scale == "tiny*"
    out = tmp_path / "paper"
    build(out, "figure4", "table8", store=store.root)
    (other,) = (lack["command"] for lack in index(out)["table8"]["lacks"])
    assert other == "diamond-bench sweep table8 scale=small"
    commands = [lack["command"] for lack in index(out)["figure4"]["lacks"] if lack["command"]]
    assert [shlex.split(command)[:2] for command in commands] == [["diamond-bench", "paper"]]
    assert all("'sampling_steps:tiny*'" in command for command in commands)  # a shell would look for files of such names
    for command in commands:
        in_this_process(*shlex.split(command)[1:], cwd=tmp_path)
    assert "figure4-sampling-steps-tiny-changed-Breakout.png" in index(out)["figure4"]["files"]


def finish(store: Store, spec: JobSpec, seed: int) -> None:
    """Makes a job done with the numbers and files of its kind."""
    store.prepare(spec)
    claim = store.claim(spec.ref)
    assert claim is not None
    rows = []
    if spec.kind == "evaluate_world_model":
        noise = np.random.default_rng(seed)
        drift = noise.uniform(0.1, 0.2, (3, HORIZON)).astype(np.float32)
        np.savez(claim.folder / "arrays.npz", drift=drift)
        (claim.folder / "media").mkdir()
        true = np.random.default_rng(0).integers(0, 255, (2, HORIZON, 8, 8, 3)).astype(np.uint8)
        imagined = noise.integers(0, 255, true.shape).astype(np.uint8)
        np.savez(claim.folder / "media" / "frames.npz", true=true, imagined=imagined)
        if spec.config.evaluation.fixed_actions:
            kind = "Box" if spec.config.sampler.num_steps == 1 else "MultiDiscrete"
            held = {"names": np.array(["neutral", "steering +"]), "kind": np.array(kind), "frames": imagined}
            np.savez(claim.folder / "media" / "fixed_actions.npz", **held)
        rows = [("drift", float(drift.mean()), False), ("frames_per_second", 50.0, True), ("lpips", 0.25, False)]
    plain = [{"metric": m, "value": v, "measured": measured, "baseline": ""} for m, v, measured in rows]
    claim.finish({"rows": plain, "info": {}, "recorded": {"revision": 1, "device": "cpu", "device_name": "a CPU", "commit": "c0ffee"}})


def swept(folder: Path, *tokens: str, leave_out: Sequence[int] = ()) -> tuple[SavedPlan, Plan, Store]:
    """A study of two objectives, finished, save the evaluations of the points with these numbers."""
    (folder / "mine.yaml").write_text(
        "question: x\nnote: Nothing rests on this.\nprotocol: world_model\ngames: [Boxing]\nseeds: 3\n"
        "primary: {metric: drift, baseline: {arm: ddpm, n: 3}, margin: 0.01}\n"
        "axes: {n: {key: sampler.num_steps, values: [1, 3]}}\n"
        "arms:\n  edm: {objective: edm, sampler: euler}\n  ddpm: {objective: ddpm, sampler: ddpm_ancestral}\n"
    )
    plan = plan_study(str(folder / "mine.yaml"), ["scale=tiny", "data=random", *tokens])
    store = Store(folder / "outputs", say=lambda text: None)
    left = {plan.points[i].jobs["evaluation"] for i in leave_out}
    for number_of_job, (ref, spec) in enumerate(plan.jobs.items()):
        if ref not in left and store.state(ref).status != "done":
            finish(store, spec, number_of_job)
    return save_plan(plan, store.root), plan, store


def test_two_objectives_stand_side_by_side_and_a_starred_scale_is_always_said(tmp_path: Path) -> None:
    _, plan, store = swept(tmp_path, "training.num_steps=13", "evaluation.batch_size=2", leave_out=[0])
    evaluation = plan.jobs[plan.points[1].jobs["evaluation"]].config.evaluation
    assert evaluation.batch_size < evaluation.num_trajectories
    out = tmp_path / "paper"
    build(out, "figure3", "figure8", "table8", "paired_differences", results=["mine"], store=store.root)
    entries = index(out)
    assert "figure3-mine-tiny-changed-Boxing.png" in entries["figure3"]["files"]
    for name in ("figure3", "figure8", "table8", "paired_differences"):
        assert "scale tiny*" in (out / f"{name}.tex").read_text()
        assert next(source for source in entries[name]["sources"] if source["kind"] == "study")["scale"] == "tiny*"
        assert "c0ffee" in (out / "index.md").read_text()
    curves = pd.read_csv(out / "figure8.csv")
    assert set(curves["scale"]) == {"tiny*"}
    assert set(zip(curves["arm"], curves["n"], curves["seeds"], strict=True)) == {
        ("edm", 1, 2),
        ("edm", 3, 3),
        ("ddpm", 1, 3),
        ("ddpm", 3, 3),
    }
    of_ddpm = [p.jobs["evaluation"] for p in plan.points if p.arm == "ddpm" and p.axes["n"] == 3]
    drift = np.concatenate([np.load(store.folder(ref) / "arrays.npz")["drift"] for ref in of_ddpm])
    first = curves[(curves["arm"] == "ddpm") & (curves["n"] == 3) & (curves["t"] == 1)].iloc[0]
    assert (first["mean"], first["trajectories"]) == (pytest.approx(drift[:, 0].mean()), 9)
    assert plan.points[0].jobs["evaluation"].id not in {job for source in entries["figure8"]["sources"] for job in source["jobs"]}
    compared = pd.read_csv(out / "paired_differences.csv").set_index("Variant")
    assert set(compared["Baseline"]) == {"ddpm, n=3"}
    assert compared.loc["edm, n=1", "runs"] == 2
    assert compared.loc["edm, n=1", "Verdict"] == "undecided"
    assert np.isnan(compared.loc["edm, n=1", "low"])
    for name in ("figure3", "figure8", "table8", "paired_differences"):
        assert any("mine (scale tiny*): Nothing rests on this." in note for note in entries[name]["footnotes"]), name
    quality = (out / "table8.md").read_text()
    assert f"frames of {evaluation.batch_size} trajectories imagined together: a throughput" in quality
    assert "AlexNet" in quality
    assert compared.loc["edm, n=3", "low"] < compared.loc["edm, n=3", "difference"] < compared.loc["edm, n=3", "high"]


def test_files_of_an_artifact_rebuilt_from_other_results_are_removed(tmp_path: Path) -> None:
    _, _, store = swept(tmp_path)
    out = tmp_path / "paper"
    build(out, "figure3", "table5", results=["mine"], store=store.root)
    assert list(out.glob("figure3*"))
    build(out, "figure3")
    assert not list(out.glob("figure3*"))
    assert (out / "table5.csv").exists()


def test_a_user_s_scores_are_columns_too(tmp_path: Path) -> None:
    norm = human_random()
    rows = [
        {"method": "Mine", "game": game, "seed": seed, "score": norm["random"][game], "source": "thesis"}
        for game in norm.index
        for seed in range(3)
    ]
    rows += [{"method": "Other", "game": "Pong", "seed": 0, "score": 3.0, "source": "thesis"}]
    pd.DataFrame(rows).to_csv(tmp_path / "my.csv", index=False)
    out = tmp_path / "paper"
    build(out, "table1", "optimality_gap", scores=tmp_path / "my.csv")
    found = column(out, "table1", "Mine (thesis)")
    assert (found["Superhuman games"], round(found["Mean HNS"], 9), found["Pong"]) == (0, 0, -20.7)
    gaps = pd.read_csv(out / "optimality_gap.csv").set_index("Method")
    assert gaps.loc["Mine (thesis)", "optimality_gap"] == pytest.approx(1.0)
    assert np.isnan(gaps.loc["Other (thesis)", "optimality_gap"])
    text = (out / "table1.md").read_text()
    assert "Other (thesis): one seed only" in text
    source = next(source for source in index(out)["table1"]["sources"] if source["kind"] == "scores file")
    assert (source["methods"], len(source["sha256"])) == (["Mine"], 64)


def test_runs_of_some_games_and_means_of_others_have_cells_but_no_aggregate(tmp_path: Path) -> None:
    rows = [("Mixed", game, "" if game == "Pong" else "0", 5.0, "me") for game in human_random().index]
    pd.DataFrame(rows, columns=["method", "game", "seed", "score", "source"]).to_csv(tmp_path / "my.csv", index=False)
    scores = read(tmp_path / "my.csv")
    for name in ("table1", "table4", "table6", "table7", "figure2", "figure7", "per_game", "probability_of_improvement", "optimality_gap"):
        built = ARTIFACTS[name].make(Inputs(Store(tmp_path), scores=scores))
        notes = [*(built.table.all_notes() if built.table else ()), *built.footnotes]
        assert any("mixes runs" in note for note in notes), name
        if name == "table1":
            assert built.table is not None
            values = {row[0].text: row[-1].value for row in built.table.rows}
            assert (values["Pong"], values["Alien"], values["Mean HNS"]) == (5.0, 5.0, None)


# What is refused


def refused(match: str, out: Path, *artifacts: str, **options: object) -> None:
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(UserError, match=match):
        build(out, *artifacts, **options)  # type: ignore[arg-type]
    assert sorted(out.parent.rglob("*")) == before


def test_a_study_that_varies_the_steps_of_one_arm_alone_has_figures_4_and_8(tmp_path: Path) -> None:
    plan = as_saved(plan_study("sampling_steps", ["scale=smoke"]), tmp_path)
    results: Any = {point.jobs["evaluation"].id: None for point in plan.points}
    found = list(singles(Inputs(Store(tmp_path), (StudyResults(plan, pd.DataFrame(), results, ()),))))
    assert [(group.game, list(group.of("sampling_steps"))) for group in found] == [("Freeway", [1, 3, 10]), ("Breakout", [1, 3, 10])]
    assert found[0].caption == "sampling_steps, Freeway; arm change; scale smoke"


@pytest.mark.parametrize(
    ("artifacts", "results", "match"),
    [
        (["tabel1"], [], "unknown artifact 'tabel1': did you mean table1"),
        (["table1", "figure9"], [], "unknown artifact 'figure9'"),
        (["table8"], ["sampling_step"], "unknown study 'sampling_step': did you mean sampling_steps"),
        (
            ["table8"],
            ["diffusion_objective"],
            "diffusion_objective has not been swept into .*; run: diamond-bench sweep diffusion_objective",
        ),
        (["table8"], ["mine:paper"], "mine was not swept at scale paper: there are mine:tiny"),
        (["table8"], ["sampling_steps:tny"], "unknown scale 'tny': did you mean tiny"),
        (["table8"], [""], "unknown study ''"),
        (["table8"], ["../mine"], "unknown study '../mine'"),
    ],
)
def test_wrong_names_are_refused(artifacts: list[str], results: list[str], match: str, tmp_path: Path) -> None:
    _, _, store = swept(tmp_path)
    refused(match, tmp_path / "paper", *artifacts, results=results, store=store.root)


def test_a_study_at_several_scales_needs_a_scale(tmp_path: Path) -> None:
    swept(tmp_path)
    _, _, store = swept(tmp_path, "training.num_steps=13")
    refused(r"several scales; name one: mine:tiny, mine:tiny\*", tmp_path / "paper", "table8", results=["mine"], store=store.root)
    build(tmp_path / "paper", "table8", results=["mine:tiny*"], store=store.root)
    assert "scale tiny*," in (tmp_path / "paper" / "table8.csv").read_text()


@pytest.mark.parametrize("how", ["plan", "result", "arrays missing"])
def test_damaged_results_are_refused(how: str, tmp_path: Path) -> None:
    saved, plan, store = swept(tmp_path)
    folder = store.folder(plan.points[0].jobs["evaluation"])
    if how == "plan":
        (saved.folder / "plan.json").write_text('{"study": "mine"}')
    elif how == "result":
        (folder / "result.json").write_bytes((folder / "result.json").read_bytes()[:100])
    else:
        (folder / "arrays.npz").unlink()
    refused("damaged|missing", tmp_path / "paper", "table5", "figure8", results=["mine"], store=store.root)


@pytest.mark.parametrize(("name", "drawn"), [("arrays.npz", "figure8"), ("media/frames.npz", "figure3")])
def test_an_altered_file_is_refused_and_the_next_sweep_rebuilds_it(name: str, drawn: str, tmp_path: Path) -> None:
    _, plan, store = swept(tmp_path)
    ref = plan.points[0].jobs["evaluation"]
    file = store.folder(ref) / name
    file.write_bytes(b"x" * file.stat().st_size)  # of the same size: a sweep would not notice it
    with pytest.raises(UserError, match=r"damaged.*run the sweep again"):
        build(tmp_path / "paper", "table5", drawn, results=["mine"], store=store.root)
    assert not (tmp_path / "paper").exists()
    assert store.state(ref).status == "missing"


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused("is a file", tmp_path / "file", "table5")
    refused("cannot be written", tmp_path / "file" / "below", "table5")
    with pytest.raises(UserError, match=r"/proc/paper.*cannot be written"):
        build(Path("/proc/paper"), "table5")


@pytest.mark.parametrize("content", ["{", "[]", '{"artifacts": {"table1": {}}}', '{"artifacts": 3}'])
def test_somebody_else_s_index_is_not_overwritten(content: str, tmp_path: Path) -> None:
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "index.json").write_text(content)
    refused("index.json", tmp_path / "paper", "table5")


@pytest.mark.parametrize("content", ["method,game\n", "method,game,seed,score,source\nMine,Pongg,0,1.0,me\n", None])
def test_wrong_scores_are_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "my.csv").write_text(content)
    refused("--scores .*my.csv", tmp_path / "paper", "table1", scores=tmp_path / "my.csv")
