"""From a study's YAML and overrides to jobs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diamond_bench.errors import UserError
from diamond_bench.studies.plan import find_plan, load_plans, plan_study, save_plan
from diamond_bench.studies.spec import load_study, study_files


def kinds(plan: object) -> dict[str, int]:
    counts: dict[str, int] = {}
    for ref in plan.jobs:  # type: ignore[attr-defined]
        counts[ref.kind] = counts.get(ref.kind, 0) + 1
    return counts


def test_sampling_steps_shares_one_training_among_all_numbers_of_steps() -> None:
    plan = plan_study("sampling_steps")
    assert kinds(plan) == {"collect_dataset": 2, "train_world_model": 10, "evaluate_world_model": 50}
    assert {point.game for point in plan.points} == {"Breakout", "Boxing"}
    assert sorted({point.axes["n"] for point in plan.points}) == [1, 2, 3, 5, 10]
    for ref, spec in plan.jobs.items():
        assert all(need in plan.jobs for need in spec.inputs.values())
        assert list(plan.jobs).index(ref) > max((list(plan.jobs).index(n) for n in spec.inputs.values()), default=-1)


def test_the_replication_arm_is_the_model_that_sampling_steps_evaluates() -> None:
    steps = plan_study("sampling_steps", ["games=[Breakout]"])
    objective = plan_study("diffusion_objective")
    ours = {point.jobs["world_model"] for point in steps.points}
    theirs = {point.jobs["world_model"] for point in objective.points if point.arm == "replication/edm"}
    assert ours == theirs
    last = {p.jobs["evaluation"] for p in objective.points if p.arm == "replication/edm" and p.axes["trained"] == 1.0}
    assert last == {point.jobs["evaluation"] for point in steps.points}


def test_the_controlled_arms_differ_in_the_objective_and_its_sampler_alone() -> None:
    plan = plan_study("diffusion_objective", ["seeds=1"])
    for k in (0, 1):
        trained = {p.arm: plan.jobs[p.jobs["world_model"]].config for p in plan.points}
        edm, ddpm = trained[f"controlled/edm k={k}"], trained[f"controlled/ddpm k={k}"]
        assert edm.training == ddpm.training
        assert edm.training.num_autoregressive_steps == k
        assert edm.objective.rescale_past_frames == ddpm.objective.rescale_past_frames
        assert edm.objective.sigma_offset_noise == ddpm.objective.sigma_offset_noise == 0.0
        evaluated = {p.arm: plan.jobs[p.jobs["evaluation"]].config.sampler for p in plan.points}
        for sampler in (evaluated[f"controlled/edm k={k}"], evaluated[f"controlled/ddpm k={k}"]):
            assert (sampler.start_noise, sampler.quantize, sampler.quantization) == ("sigma_max", "final", "round")
        crossed = {p.arm: p.jobs["world_model"] for p in plan.points}
        assert crossed[f"crossing/edm+ancestral k={k}"] == crossed[f"controlled/edm k={k}"]
        assert crossed[f"crossing/ddpm+euler k={k}"] == crossed[f"controlled/ddpm k={k}"]


def test_changing_the_sampler_trains_nothing_anew() -> None:
    one, other = plan_study("sampling_steps", ["scale=smoke"]), plan_study("sampling_steps", ["scale=smoke", "sampler.num_steps=7"])
    assert {p.jobs["world_model"] for p in one.points} == {p.jobs["world_model"] for p in other.points}
    assert kinds(other)["evaluate_world_model"] == 1


def test_overrides_sweep_star_the_scale_and_choose_seeds() -> None:
    plan = plan_study("sampling_steps", ["scale=tiny", "seeds=[0,7]", "sampler.num_steps=1", "training.batch_size=2,4"])
    assert plan.scale == "tiny*"
    assert {point.seed for point in plan.points} == {0, 7}
    assert {point.axes["batch_size"] for point in plan.points} == {2, 4}
    assert {point.variant for point in plan.points} == {"n=1, batch_size=2", "n=1, batch_size=4"}
    assert plan_study("sampling_steps", ["scale=tiny", "metrics=[drift]"]).scale == "tiny"


@pytest.mark.parametrize(
    ("study", "tokens", "words"),
    [
        ("sampling_step", [], ["sampling_step", "did you mean sampling_steps"]),
        ("missing.yaml", [], ["missing.yaml", "cannot be read"]),
        ("sampling_steps", ["games=[Brekout]"], ["Brekout", "Breakout"]),
        ("sampling_steps", ["games=[]"], ["games=[]"]),
        ("sampling_steps", ["seeds=0"], ["seeds=0"]),
        ("sampling_steps", ["seeds=[0,-1]"], ["seeds="]),
        ("sampling_steps", ["seeds=many"], ["seeds=many"]),
        ("sampling_steps", ["sampler.num_steps=0"], ["sampler.num_steps=0"]),
        ("sampling_steps", ["evaluation.horizon=2000"], ["evaluation.horizon=2000", "data.reference_horizon=1000"]),
        ("sampling_steps", ["evaluation.num_trajectories=401"], ["401", "data.num_references=400"]),
        ("sampling_steps", ["conditioning.num_frames=16", "data.reference_context=8"], ["num_frames=16", "reference_context=8"]),
        ("sampling_steps", ["evaluation.milestone=0.3"], ["0.3", "0.25"]),
        ("sampling_steps", ["training.milestones=[0.5,0.25]"], ["milestones"]),
        ("sampling_steps", ["metrics=[drift,psnrr]"], ["psnrr", "psnr"]),
        ("sampling_steps", ["network.depths=[1,1]"], ["network", "depths"]),
        ("sampling_steps", ["network.cond_channels=30"], ["cond_channels"]),
        ("sampling_steps", ["objective=ddpm"], ["sampler", "sigma"]),
        ("sampling_steps", ["evaluation.num_fid_images=100"], ["num_fid_images=100", "2048"]),
        ("sampling_steps", ["data.policy=exprt"], ["exprt", "expert"]),
        ("sampling_steps", ["cluster=slrm"], ["cluster=slrm", "local"]),
        ("diffusion_objective", ["objective=edm"], ["objective", "arms"]),
        ("diffusion_objective", ["objective.sigma_offset_noise=0.1"], ["objective.sigma_offset_noise", "arms"]),
    ],
)
def test_what_does_not_fit_is_refused_at_planning(study: str, tokens: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study, tokens)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question: [", ["not valid YAML"]),
        ("- a", ["expected a group"]),
        ("qestion: x", ["qestion", "question"]),
        ("question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 1", ["primary is missing"]),
        ("question: x\nprotocol: wold\ngames: [Pong]\nseeds: 1\nprimary: {}", ["wold", "world_model"]),
        ("question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 1\nprimary: {}\naxes: {n: {key: sampler.num_steps}}", ["axes.n"]),
        ("question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 1\nprimary: {}\nscales: {smol: {}}", ["smol", "small"]),
    ],
)
def test_a_wrong_study_file_is_named(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        plan_study(str(file), ["scale=tiny"])
    for word in ["mine.yaml", *words]:
        assert word in str(error.value)


def test_every_shipped_study_plans_at_every_scale() -> None:
    for name in study_files():
        for scale in ("paper", "small", "smoke", "tiny"):
            plan = plan_study(name, [f"scale={scale}"])
            assert plan.points
            assert load_study(name, scale).question


def test_a_plan_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    plan = plan_study("diffusion_objective", ["scale=tiny"])
    saved = save_plan(plan, tmp_path)
    assert load_plans(tmp_path) == [saved]
    assert saved.points == plan.points
    assert find_plan(tmp_path, "diffusion_objective", []) == saved
    with pytest.raises(UserError, match="has not been swept"):
        find_plan(tmp_path, "sampling_steps", [])
    (saved.folder / "plan.json").write_text('{"study": 3}')
    with pytest.raises(UserError, match="damaged"):
        load_plans(tmp_path)


def test_the_dry_run_prints_jobs_as_json_and_creates_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diamond_bench", "sweep", "sampling_steps", "--dry-run", "--json", f"output_dir={tmp_path}/o"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    jobs = json.loads(done.stdout)
    assert len(jobs) == 62
    assert set(jobs[0]) == {"id", "kind", "variants", "game", "seed", "needs", "state"}
    ids = {job["id"] for job in jobs}
    assert all(set(job["needs"]) <= ids for job in jobs)
    assert not list(tmp_path.iterdir())
