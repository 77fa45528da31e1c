"""diamond_bench from Python: the documentation's snippets run, and what is imagined is what the evaluation measured."""

import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import ROOT

from diamond_bench import api
from diamond_bench.errors import UserError
from diamond_bench.report.comparison import COLUMNS
from diamond_bench.results.table import collect
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.studies.plan import Plan, load_plans, plan_study

STUDY = "sampling_steps"

pytestmark = pytest.mark.timeout(1200)  # the shared store takes seconds on a quiet machine, minutes on a busy one


@pytest.fixture
def evaluation(tiny_store: Path) -> str:
    """The evaluation of three denoising steps."""
    return next(p.jobs["evaluation"].id for p in load_plans(tiny_store)[0].points if p.variant == "n=3")


def test_the_documentation_s_snippets_run(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_store.parent / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIAMOND_BENCH_OUTPUTS", raising=False)
    snippets = re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "snippets.py").write_text("\n".join(snippets))
    found = runpy.run_path(str(tmp_path / "snippets.py"))
    assert set(found["jobs"]["status"]) == {"done"}
    assert list(found["compared"]["variant"]) == ["n=1", "n=2", "n=5", "n=10"]
    assert found["files"][0].name == "index.html"
    assert (tmp_path / "drift.png").stat().st_size > 0
    assert found["frames"].shape == found["play"].true.shape == found["still"].shape
    assert found["imagined"].frame.shape == found["true"].frame.shape == (3, 64, 64)
    assert (found["session"].now.step, len(found["session"].moments)) == (2, 5)


def test_the_documentation_lists_every_function_and_column() -> None:
    table = (ROOT / "docs" / "api.md").read_text().partition("| Function |")[2]
    functions = set(re.findall(r"`(\w+)\(", table.partition("\n\n")[0]))
    public = {name for name, value in vars(api).items() if callable(value) and getattr(value, "__module__", "") == api.__name__}
    assert functions == {name for name in public if not name.startswith("_")}
    columns = (ROOT / "docs" / "report.md").read_text().partition("| Comparison column |")[2].partition("\n\n")[0]
    assert {name for line in columns.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])} == set(COLUMNS)


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_imagined_is_what_the_evaluation_measured(tiny_store: Path, evaluation: str, number: int) -> None:
    play = api.held_out(evaluation, number, output_dir=tiny_store)
    model = api.load_world_model(evaluation, output_dir=tiny_store)
    frames = api.imagine(model, play.past, play.actions, api.sampler("euler", num_steps=3), play.seed)
    with np.load(tiny_store / "evaluate_world_model" / evaluation / "media" / "frames.npz") as kept:
        assert np.array_equal(kept["true"][number], play.true)
        difference = np.abs(kept["imagined"][number].astype(int) - frames)
    assert difference.max() <= 1  # alone in its batch, a last bit may be rounded to the other side
    assert (difference == 0).mean() > 0.99


def test_results_and_jobs_are_the_study_s(tiny_store: Path) -> None:
    plan, store = api.find_study(STUDY, output_dir=tiny_store)
    pd.testing.assert_frame_equal(api.results(STUDY, output_dir=tiny_store), collect(plan, store))
    pd.testing.assert_frame_equal(api.results(STUDY, f"output_dir={tiny_store}"), collect(plan, store))
    jobs = api.jobs(STUDY, "scale=tiny", output_dir=tiny_store)
    assert set(jobs["id"]) == {ref.id for ref in plan.jobs}
    assert (jobs["seconds"] > 0).all()


def test_a_figure_is_drawn_by_its_name(tiny_store: Path) -> None:
    kinds = ("drift", "trajectories", "quality", "ranks", "losses")
    assert api.figures(STUDY, output_dir=tiny_store) == [f"{kind}-Breakout" for kind in kinds]
    figure = api.figure(STUDY, "drift-Breakout", output_dir=tiny_store)
    assert "copy last frame" in {line.get_label() for line in figure.axes[0].lines}


def test_the_seed_decides_what_is_imagined(tiny_store: Path, evaluation: str) -> None:
    play = api.held_out(evaluation, output_dir=tiny_store)
    model = api.load_world_model(evaluation, output_dir=tiny_store)
    one, same, other = (api.imagine(model, play.past, play.actions, "euler", seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    shorter = api.imagine(model, play.past[-model.context :], play.actions[len(play.past) - model.context :], "euler", 1)
    assert np.array_equal(one, shorter)  # the model sees no more of the past than its last frames


def test_wrong_frames_and_actions_are_refused(tiny_store: Path, evaluation: str) -> None:
    play = api.held_out(evaluation, output_dir=tiny_store)
    model = api.load_world_model(evaluation, output_dir=tiny_store)
    for past in (play.past / 255, play.past[0], play.past[:2]):
        with pytest.raises(ValueError, match="past: expected uint8 frames"):
            api.imagine(model, past, play.actions)
    for actions in (play.actions[: len(play.past) - 1], play.actions.astype(float), play.actions[None]):
        with pytest.raises(ValueError, match="actions: expected at least"):
            api.imagine(model, play.past, actions)
    with pytest.raises(ValueError, match=r"must lie in 0\.\.3"):
        api.imagine(model, play.past, play.actions + 4)


def test_mistakes_are_named(tiny_store: Path, evaluation: str, tmp_path: Path) -> None:
    here = {"output_dir": tiny_store}
    plan = load_plans(tiny_store)[0]
    training, dataset = (plan.points[0].jobs[role].id for role in ("world_model", "dataset"))
    for call, words in (
        (lambda: api.results("sampling_stps", **here), "sampling_steps"),
        (lambda: api.results(STUDY, output_dir=tmp_path), "has not been swept"),
        (lambda: api.figure(STUDY, "drift-Pong", **here), "drift-Breakout"),
        (lambda: api.compare(STUDY, metric="drft", **here), "drift"),
        (lambda: api.compare(STUDY, baseline={"steps": 3}, **here), "no such axis"),
        (lambda: api.compare(STUDY, margin=-1, **here), "margin=-1"),
        (lambda: api.load_agent(training, **here), "has no agent"),
        (lambda: api.load_world_model(dataset, **here), "has no world model"),
        (lambda: api.load_world_model(training, 0.3, **here), "milestone=0.3"),
        (lambda: api.load_world_model("ffff", **here), "names no job"),
        (lambda: api.held_out(training, **here), "evaluate_world_model"),
        (lambda: api.held_out(evaluation, 99, **here), "0 to 2"),
        (lambda: api.sampler("eulr"), "euler"),
        (lambda: api.sampler("euler", steps=3), "num_steps"),
        (lambda: api.sampler("euler", num_steps=0), "num_steps=0"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            call()
    assert not list(tmp_path.iterdir())


def test_weights_that_were_changed_are_not_loaded(tiny_store: Path, evaluation: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "outputs")
    store = Store(tmp_path / "outputs", say=lambda text: None)
    training = load_plans(store.root)[0].points[0].jobs["world_model"]
    weights = next((store.folder(training) / "models").rglob("model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="SHA-256"):
        api.load_world_model(evaluation, output_dir=store.root)


# Agents


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    """Untrained agents of a tiny study in a store, one with a world model and one without."""
    from diamond_bench.agent import build_agent, save_agent
    from diamond_bench.jobs.agent_learners import describe

    folder = tmp_path_factory.mktemp("agents")
    plan = plan_study("sampling_steps_agent", ["scale=tiny", "env.frame_size=16", f"output_dir={folder}"])
    trained, evaluated = list(plan.jobs.values())[:2]
    free = replace(trained.config, agent=replace(trained.config.agent, model_free=True))
    store = Store(folder, say=lambda text: None)
    for spec in (trained, evaluated, JobSpec("train_agent", free)):
        store.prepare(spec)
        claim = store.claim(spec.ref)
        assert claim is not None
        if spec.kind == "train_agent":
            save_agent(build_agent(describe(spec.config)), claim.folder / "agent")
        claim.finish({"rows": [], "info": {}, "recorded": {"revision": 1}})
    return store, plan


def test_an_agent_is_loaded_by_its_job_or_its_evaluation_s(agents: tuple[Store, Plan]) -> None:
    store, plan = agents
    point = plan.points[0]
    training, evaluation = (point.jobs[role].id for role in ("agent", "evaluation"))
    one, other = (api.load_agent(job, output_dir=store.root) for job in (training, evaluation))
    assert one.description == other.description
    assert one.description.game == "Breakout"
    assert one.world_model is not None
    model = api.load_world_model(evaluation, output_dir=store.root)
    assert model.description == one.world_model.description
    past = np.random.default_rng(0).integers(0, 256, (model.context, 16, 16, 3), dtype=np.uint8)
    frames = api.imagine(model, past, np.zeros(model.context + 1, np.int64), "euler")
    assert frames.shape == (2, 16, 16, 3)
    with pytest.raises(UserError, match=r"milestone=0\.5: .* kept 1\.0 alone"):
        api.load_world_model(training, 0.5, output_dir=store.root)


def test_an_agent_without_a_world_model_says_so(agents: tuple[Store, Plan]) -> None:
    store, _ = agents
    (free,) = [ref for ref in store.refs() if ref.kind == "train_agent" and store.spec(ref).config.agent.model_free]
    agent = api.load_agent(free.id, output_dir=store.root)
    assert (agent.world_model, agent.reward_end) == (None, None)
    with pytest.raises(UserError, match="learned without a world model"):
        api.load_world_model(free.id, output_dir=store.root)


def test_an_agent_whose_weights_were_changed_is_not_loaded(agents: tuple[Store, Plan], tmp_path: Path) -> None:
    shutil.copytree(agents[0].root, tmp_path / "outputs")
    store = Store(tmp_path / "outputs", say=lambda text: None)
    ref = agents[1].points[0].jobs["agent"]
    weights = store.folder(ref) / "agent" / "actor_critic.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for load in (api.load_agent, api.load_world_model):
        with pytest.raises(UserError, match="SHA-256"):
            load(ref.id, output_dir=store.root)
