"""From a study's YAML and overrides to jobs."""

import io
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import in_this_process
from pinned_ids import FILE, SCALES, digests, plan_at
from rich.console import Console

from diamond_bench.config import FactoredObjective
from diamond_bench.errors import UserError
from diamond_bench.printing import print_plan
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.answerable import baselines, family, limits
from diamond_bench.studies.plan import find_plan, load_plans, place_of, plan_study, save_plan
from diamond_bench.studies.single import plan_train
from diamond_bench.studies.spec import load_study, points, study_files

UNTRUE = ("scale", "cluster", "seed", "game", "games", "seeds", "metrics", "output_dir")
N = "{key: sampler.num_steps, values: [1, 2]}"
STUDY = "question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 1\nprimary: {metric: drift}\n"


def kinds(plan: object) -> dict[str, int]:
    counts: dict[str, int] = {}
    for ref in plan.jobs:  # type: ignore[attr-defined]
        counts[ref.kind] = counts.get(ref.kind, 0) + 1
    return counts


def test_sampling_steps_shares_one_training_among_all_numbers_of_steps() -> None:
    plan = plan_study("sampling_steps")
    assert kinds(plan) == {"collect_dataset": 2, "train_world_model": 10, "extract_features": 2, "evaluate_world_model": 60}
    assert {point.game for point in plan.points} == {"Breakout", "Boxing"}
    assert sorted({point.axes["n"] for point in plan.points}) == [1, 2, 3, 5, 10, 20]
    for ref, spec in plan.jobs.items():
        assert all(need in plan.jobs for need in spec.inputs.values())
        assert list(plan.jobs).index(ref) > max((list(plan.jobs).index(n) for n in spec.inputs.values()), default=-1)


def test_studies_share_the_trainings_they_have_in_common() -> None:
    """One training serves all that varies sampling alone, and the paper's model is an arm of the studies that vary the training."""
    (paper_model,) = {p.jobs["world_model"] for p in plan_study("sampling_steps", ["games=[Breakout]", "seeds=1"]).points}
    for name, arms in {
        "solver": None,
        "start_noise": None,
        "offset_noise": {"added 0.3"},
        "noise_distribution": {"log-normal"},
        "conditioning_architecture": {"stacked"},
        "action_conditioning": {"group norm"},
        "diffusion_objective": {"replication/edm"},
    }.items():
        points = plan_study(name, ["games=[Breakout]", "seeds=1"]).points
        assert {p.arm for p in points if p.jobs["world_model"] == paper_model} == (arms or {p.arm for p in points}), name
    for name, axis, value in (("autoregressive_training", "k", 1), ("network_size", "width", [64] * 4), ("frame_noise", "level", 0.0)):
        points = plan_study(name, ["games=[Breakout]", "seeds=1"]).points
        assert [p.axes[axis] for p in points if p.jobs["world_model"] == paper_model] == [value], name


def test_a_scale_can_run_some_of_the_arms(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = (
        "question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 1\n"
        "arms: {a: {}, b: {objective: flow, sampler: flow_euler}, c: {objective: edm_clean}}\n"
        "primary: {metric: drift, baseline: {arm: c}}\nscales: {tiny: {arms: %s}}\n"
    )
    file.write_text(text % "[c, a]")
    assert list(load_study(str(file), "tiny").arms) == ["a", "c"]
    assert list(load_study(str(file), "paper").arms) == ["a", "b", "c"]
    file.write_text(text % "[a, b], primary: {metric: drift, baseline: {arm: a}}")
    assert load_study(str(file), "tiny").primary.baseline == {"arm": "a"}
    assert load_study(str(file), "small").primary.baseline == {"arm": "c"}
    for arms, said in (("[a, d, c]", "unknown arm 'd'"), ("[a]", "baseline's arm 'c'"), ("[]", "list of arms"), ("a", "list of arms")):
        file.write_text(text % arms)
        with pytest.raises(UserError, match=said):
            load_study(str(file), "tiny")


def test_a_scale_can_have_arms_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    text = (
        "question: Which?\nprotocol: world_model\ngames: [Pong]\nseeds: 1\n"
        "axes: {n: {key: sampler.num_steps, values: [1, 3]}}\nprimary: {metric: drift, baseline: {n: 1}}\n"
        "scales: {smoke: {arms: {a: {}, b: {sampler.num_steps: 3}}, primary: {metric: drift, baseline: {arm: a}}}, tiny: {arms: %s}}\n"
    )
    file.write_text(text % "{a: {objective: flow}}")
    assert [name for name, *_ in points(load_study(str(file), "smoke"))] == ["a, n=1", "a, n=3", "b, n=3"]
    assert [name for name, *_ in points(load_study(str(file), "paper"))] == ["n=1", "n=3"]
    assert load_study(str(file), "tiny").primary.baseline == {"n": 1}
    file.write_text(text % "{a: {sampler.num_steps: 3}, b: {sampler.num_steps: 1}}, primary: {metric: drift, baseline: {arm: b}}")
    assert [name for name, *_ in points(load_study(str(file), "tiny"))] == ["a", "b"]  # all arms fix n, so their names say it
    for arms, said in (("{}", "there are none"), ("{a: {seed: 1}}", "seed"), ("{a: {sampler.num_steps: 3}}", "unknown key 'n'")):
        file.write_text(text % arms)
        with pytest.raises(UserError, match=said):
            load_study(str(file), "tiny")


def test_the_replication_arm_is_the_model_that_sampling_steps_evaluates() -> None:
    steps = plan_study("sampling_steps", ["games=[Breakout]"])
    objective = plan_study("diffusion_objective")
    ours = {point.jobs["world_model"] for point in steps.points}
    theirs = {point.jobs["world_model"] for point in objective.points if point.arm == "replication/edm"}
    assert ours == theirs
    last = {p.jobs["evaluation"] for p in objective.points if p.arm == "replication/edm" and p.axes["trained"] == 1.0}
    assert last == {point.jobs["evaluation"] for point in steps.points if point.axes["n"] <= 10}


def test_the_controlled_arms_differ_in_the_objective_and_its_sampler_alone() -> None:
    plan = plan_study("diffusion_objective", ["seeds=1"])
    for k in (0, 1):
        trained = {p.arm: plan.jobs[p.jobs["world_model"]].config for p in plan.points}
        controlled = [config for arm, config in trained.items() if arm.startswith("controlled/") and arm.endswith(f"k={k}")]
        assert {config.objective.parameterization for config in controlled} == {"edm", "noise", "velocity", "clean", "flow"}
        assert {replace(config, objective=FactoredObjective()) for config in controlled} == {
            replace(controlled[0], objective=FactoredObjective())
        }
        assert controlled[0].training.num_autoregressive_steps == k
        assert {(o.rescale_past_frames, o.sigma_offset_noise, o.quantization) for o in (c.objective for c in controlled)} == {
            (True, 0.0, "round" if k else "truncate")
        }
        evaluated = {p.arm: plan.jobs[p.jobs["evaluation"]].config.sampler for p in plan.points}
        for sampler in (sampler for arm, sampler in evaluated.items() if arm.startswith("controlled/")):
            assert (sampler.start_noise, sampler.quantize, sampler.quantization) == ("sigma_max", "final", "round")
        crossed = {p.arm: p.jobs["world_model"] for p in plan.points}
        assert crossed[f"crossing/edm+ancestral k={k}"] == crossed[f"controlled/edm k={k}"]
        assert crossed[f"crossing/ddpm+euler k={k}"] == crossed[f"controlled/ddpm k={k}"]


def test_changing_the_sampler_retrains_nothing() -> None:
    one, other = plan_study("sampling_steps", ["scale=tiny"]), plan_study("sampling_steps", ["scale=tiny", "sampler.num_steps=7"])
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
        ("sampling_steps", ["cluster=slrm"], ["cluster=slrm", "did you mean slurm?"]),
        ("sampling_steps", ["sampler.num_steps=1,1"], ["sampler.num_steps", "1 is given twice"]),
        ("sampling_steps", ["training.weight_decay=1,1.0"], ["training.weight_decay", "given twice"]),
        ("sampling_steps", ["sampler.s_tmax=inf,.inf"], ["sampler.s_tmax", "given twice"]),
        ("sampling_steps", ["metrics=[drift]", "evaluation.metrics=[psnr]"], ["evaluation.metrics", "given twice"]),
        ("sampling_steps", ["metrics=[drift,drift]"], ["drift is given twice"]),
        ("sampling_steps", ["execution.num_threads=1,2"], ["execution.num_threads", "cannot change a result"]),
        ("sampling_steps", ["execution.device=cpu,cuda"], ["execution.device", "cannot change a result"]),
        ("sampling_steps", ["evaluation.keep_frames=true,false"], ["evaluation.keep_frames", "cannot change a result"]),
        ("sampling_steps", ["training.log_every=1,2"], ["training.log_every", "cannot change a result"]),
        ("sampling_steps", ["cluster.num_workers=1,2"], ["cluster.num_workers", "cannot change a result"]),
        ("sampling_steps", ["data.dataset=a,b"], ["data.dataset", "a sweep uses one dataset"]),
        ("sampling_steps", ["env.frame_size=16"], ["env.frame_size=16", "lpips", "32"]),
        ("sampling_steps", ["env.frame_size=16", "metrics=[drift,lpips_vgg]"], ["lpips_vgg", "metrics=[drift]"]),
        ("sampling_steps", ["seeds=[9223372036854775808]"], ["seeds=9223372036854775808", "at most"]),
        ("sampling_steps", ["data.seed=9223372036854775808"], ["data.seed", "at most"]),
        ("sampling_steps", ["evaluation.seed=9223372036854775808"], ["evaluation.seed", "at most"]),
        ("sampling_steps", ["seeds=1000000000000"], ["seeds=1000000000000", "[1000000000000]"]),
        ("sampling_steps", ["objective.loc=-inf"], ["objective.loc", "finite"]),
        ("sampling_steps", ["primary.metric=psnr"], ["primary.metric: primary belongs to the study's file", "docs/studies.md"]),
        ("sampling_steps", ["axes.n.values=1,2"], ["axes.n.values: axes belongs to the study's file"]),
        ("sampling_steps", ["arms={a: 1}"], ["arms: arms belongs to the study's file"]),
        ("sampling_steps", ["xyzzy.metric=1"], ["unknown key 'xyzzy.metric': valid: actor_critic, agent"]),
        ("diffusion_objective", ["objective=edm"], ["objective", "arms", "under another name"]),
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
        *(
            (f"question: x\nprotocol: world_model\ngames: [Pong]\nseeds: 1\n{more}", words)
            for more, words in [
                ("primary: {metric: drift}\n3: 4", ["key 3", "no text"]),
                ("primary: {metric: drift}\nset: {3: 4}", ["set", "key 3", "no text"]),
                ("primary: {metric: drift}\narms: {1: {}}", ["arms", "key 1", "no text"]),
                ("primary: {metric: drift}\narms: {}", ["arms", "no variant"]),
                ("primary: {metric: drift}\nnote: 3", ["note", "a text"]),
                *((f"primary: {{metric: drift}}\nset: {{{key}: 1}}", ["set", key]) for key in UNTRUE),
                *((f"primary: {{metric: drift}}\narms: {{a: {{{key}: 1}}}}", ["arms.a", key]) for key in UNTRUE),
                *((f"primary: {{metric: drift}}\naxes: {{a: {{key: {key}, values: [1]}}}}", ["axes", key]) for key in UNTRUE),
                (f"primary: {{metric: drift}}\naxes: {{a: {N}, b: {N}}}", ["axes a and b", "sampler.num_steps"]),
                ("primary: {metric: drift}\naxes: {a: {key: sampler.num_steps, values: [2, 2]}}", ["axes.a", "2 is given twice"]),
                ("primary: {metric: drift}\naxes: {a: {key: execution.num_threads, values: [1, 2]}}", ["axes.a", "cannot change a result"]),
                (f"primary: {{metric: drift}}\naxes: {{a: {N}}}\nscales: {{tiny: {{axes: {{a: [3, 3]}}}}}}", ["axes.a", "given twice"]),
                ("primary: {}", ["primary.metric", "None"]),
                ("primary: {metric: dirft}", ["primary.metric", "dirft", "drift"]),
                ("primary: {metric: sharpness}", ["primary.metric", "it is a metric, and its columns are sharpness_ratio, noise_excess"]),
                ("primary: {metric: parameters}", ["primary.metric", "parameters has no better side"]),
                (f"primary: {{metric: drift, variants: {{m: 1}}}}\naxes: {{n: {N}}}", ["primary.variants", "'m'", "n"]),
                (f"primary: {{metric: drift, variants: {{n: [1, 3]}}}}\naxes: {{n: {N}}}", ["primary.variants.n=3", "1, 2"]),
                (f"primary: {{metric: drift, variants: {{n: []}}}}\naxes: {{n: {N}}}", ["primary.variants", "no variant has all of n=[]"]),
                ("primary: {metric: drift, margin: -1}", ["primary.margin=-1"]),
                ("primary: {metric: drift, margin: big}", ["primary.margin='big'"]),
                ("primary: {metric: drift, margin: .nan}", ["primary.margin=nan"]),
                ("primary: {metric: drift, margin: 51%}", ["primary.margin='51%'", "at most 50%"]),
                ("primary: {metric: psnr, margin: 10%}", ["primary.margin='10%'", "psnr has no copy-last-frame error"]),
                ("primary: {metric: drift, test: T}", ["primary.test", "'T'", "did you mean t"]),
                ("primary: {metric: drift, looks: [5, 3]}", ["primary.looks=[5, 3]", "ascending"]),
                ("primary: {metric: drift, looks: 3}", ["primary.looks=3", "ascending list"]),
                ("primary: {metric: drift, looks: [2, 3]}", ["primary.looks=[2, 3]", "at least 3"]),
                ("primary: {metric: drift, holm_equivalence: 1}", ["primary.holm_equivalence=1", "true or false"]),
                (f"primary: {{metric: drift, baseline: {{m: 1}}}}\naxes: {{n: {N}}}", ["primary.baseline", "'m'", "n"]),
                (f"primary: {{metric: drift, baseline: {{n: 3}}}}\naxes: {{n: {N}}}", ["primary.baseline.n=3", "1, 2"]),
                ("primary: {metric: drift, baseline: {arm: b}}\narms: {a: {}}", ["primary.baseline.arm='b'", "a"]),
                (
                    f"primary: {{metric: drift, baseline: {{arm: a, n: 2}}}}\narms: {{a: {{sampler.num_steps: 1}}, b: {{}}}}\naxes: {{n: {N}}}",  # noqa: E501
                    ["primary.baseline", "arm=a, n=2"],
                ),
            ]
        ),
    ],
)
def test_a_wrong_study_file_is_named(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        plan_study(str(file), ["scale=tiny"])
    for word in ["mine.yaml", *words]:
        assert word in str(error.value)


def test_axes_whose_keys_end_alike_stay_apart() -> None:
    tokens = ["scale=tiny", "objective.sigma_max=10,20", "sampler.schedule.sigma_max=4,5", "sampler.num_steps=1"]
    plan = plan_study("sampling_steps", tokens)
    assert list(plan.points[0].axes) == ["n", "sigma_max", "sampler.schedule.sigma_max"]
    found = {(plan.jobs[p.jobs["world_model"]].config.objective.sigma_max, p.axes["sampler.schedule.sigma_max"]) for p in plan.points}
    assert found == {(10.0, 4), (10.0, 5), (20.0, 4), (20.0, 5)}
    assert len({p.jobs["evaluation"] for p in plan.points}) == len({p.variant for p in plan.points}) == 4


def test_values_that_differ_late_have_names_that_differ() -> None:
    plan = plan_study("sampling_steps", ["scale=tiny", "sampler.num_steps=1", "training.learning_rate=0.12345678,0.12345679,0.001"])
    assert {p.variant for p in plan.points} == {f"n=1, learning_rate={rate}" for rate in ("0.12345678", "0.12345679", "0.001")}


def test_an_infinite_value_is_planned_and_saved(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(STUDY + "axes: {s: {key: sampler.s_tmax, values: [1.0, .inf]}}")
    saved = save_plan(plan_study(str(file), ["scale=tiny"]), tmp_path)
    assert [p.axes["s"] for p in saved.points] == [1.0, "inf"]
    assert load_plans(tmp_path) == [saved]


def test_a_file_cannot_take_the_name_of_a_shipped_study(tmp_path: Path) -> None:
    file = tmp_path / "sampling_steps.yaml"
    file.write_text(STUDY)
    with pytest.raises(UserError, match=r"sampling_steps is the name of a shipped study.* rename"):
        plan_study(str(file), ["scale=tiny"])
    shipped = study_files()["sampling_steps"]
    assert plan_study(str(shipped), ["scale=tiny"]).points
    file.write_text(shipped.read_text())  # the same study
    assert plan_study(str(file), ["scale=tiny"]).points


def metadata(**changes: Any) -> str:
    box = '{"type": "Box", "dtype": "uint8", "shape": [64, 64, 3]}'
    counts = {"data_format": "hdf5", "total_episodes": 1, "total_steps": 9}
    return json.dumps({**counts, "observation_space": box, "action_space": '{"type": "Discrete", "n": 4, "start": 0}', **changes})


def own_dataset(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "metadata.json").write_text(metadata())
    (folder / "data" / "main_data.hdf5").write_bytes(b"")
    return folder


def test_a_dataset_of_one_s_own_takes_the_games_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("HOME", str(tmp_path))
    foo = own_dataset(tmp_path / "foo")
    own_dataset(tmp_path / "minari" / "pong" / "random-v0")
    monkeypatch.chdir(foo)
    for name, label in (("pong/random-v0", "pong/random-v0"), (str(foo), "foo"), (f"{foo}/data", "foo"), (".", "foo"), ("data", "foo")):
        plan = plan_study("sampling_steps", ["scale=tiny", f"data.dataset={name}", "sampler.num_steps=1"])
        assert {p.game for p in plan.points} == {label}
        assert kinds(plan)["import_dataset"] == 1
        print_plan(Console(file=(shown := io.StringIO()), width=400), plan, Store(tmp_path / "o"), as_json=False)
        assert f"games {label};" in shown.getvalue()
        assert "Breakout" not in shown.getvalue()
    with pytest.raises(UserError, match=r"data\.dataset.* takes the games' place"):
        plan_study("sampling_steps", ["scale=tiny", "data.dataset=pong/random-v0", "games=[Pong]"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "expected the key 'data_format'"),
        ("no json", "not the metadata of a Minari dataset"),
        (metadata(data_format="zarr"), "unknown data_format 'zarr'"),
        (metadata(data_format="arrow"), "is missing"),
        (metadata(total_episodes=0), "no episodes"),
    ],
)
def test_what_only_looks_like_a_dataset_is_refused_at_planning(tmp_path: Path, content: str, message: str) -> None:
    folder = own_dataset(tmp_path / "foo")
    (folder / "data" / "metadata.json").write_text(content)
    with pytest.raises(UserError, match=message):
        plan_study("sampling_steps", ["scale=tiny", f"data.dataset={folder}"])


def test_of_several_sweeps_the_overrides_of_one_are_asked_for(tmp_path: Path) -> None:
    for tokens in (["scale=tiny"], ["scale=tiny", "training.batch_size=2"]):
        save_plan(plan_study("sampling_steps", tokens), tmp_path)
    with pytest.raises(UserError, match=r"repeat the overrides of one: .*scale=tiny training\.batch_size=2"):
        find_plan(tmp_path, "sampling_steps", [])
    assert find_plan(tmp_path, "sampling_steps", ["scale=tiny", "training.batch_size=2"]).scale == "tiny*"
    assert find_plan(tmp_path, "sampling_steps", ["scale=tiny"]).scale == "tiny"


def test_commands_for_a_plan_name_it_even_if_its_scale_was_changed(tmp_path: Path) -> None:
    plain, changed = (save_plan(plan_study("sampling_steps", ["scale=tiny", *more]), tmp_path) for more in ([], ["training.batch_size=2"]))
    assert place_of(plain) == "sampling_steps scale=tiny"
    assert place_of(changed) == "sampling_steps scale=tiny training.batch_size=2"
    trained = save_plan(plan_train(["scale=tiny", "game=Pong", "agent.budget=50", "output_dir=o p"]), tmp_path)
    assert place_of(trained) == "train-Pong-seed0 scale=tiny 'output_dir=o p'"
    for plan in (plain, changed, trained):
        assert find_plan(tmp_path, *(lambda name, *tokens: (name, tokens))(*shlex.split(place_of(plan)))) == plan


def test_every_shipped_study_plans_at_every_scale_with_the_ids_it_had() -> None:
    found = {}
    for name in study_files():
        plans = {scale: plan_at(name, scale) for scale in SCALES}
        assert all(plan.points and load_study(name, scale).question for scale, plan in plans.items())
        assert not [limit for plan in plans.values() for limit in limits(plan) if "do not measure" in limit], name
        found[name] = {scale: digests(plan) for scale, plan in plans.items()}
    assert found == json.loads(FILE.read_text())


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
    assert len(jobs) == 74
    assert set(jobs[0]) == {"id", "kind", "variants", "game", "seed", "needs", "state"}
    ids = {job["id"] for job in jobs}
    assert all(set(job["needs"]) <= ids for job in jobs)
    assert not list(tmp_path.iterdir())


def test_returns_of_several_games_are_no_primary_metric(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = "question: x\nprotocol: agent\ngames: [{}]\nseeds: 1\nprimary: {{metric: {}}}\nscales: {{tiny: {{games: [Pong]}}}}\n"
    for games, metric in (("Pong", "test_return"), ("Pong, Boxing", "hns")):
        file.write_text(text.format(games, metric))
        assert load_study(str(file), "tiny").primary.metric == metric
    file.write_text(text.format("Pong, Boxing", "test_return"))
    for scale in ("paper", "tiny"):
        with pytest.raises(UserError, match=r"test_return of 2 games cannot be pooled.*hns"):
            load_study(str(file), scale)


def test_the_shipped_studies_can_be_answered_with_the_runs_they_plan() -> None:
    """Those that compare: diffusion_objective is about one variant of 130, which five unpaired runs on a side can tell (2/252)."""
    for name in study_files():
        assert limits(plan_study(name)) == []
    plan = plan_study("diffusion_objective")
    pairs = family(
        plan.points, baselines(plan.points, [a.name for a in plan.study.axes], plan.study.primary.baseline), plan.study.primary.variants
    )
    assert pairs == {"crossing/edm+euler k=1, n=3, trained=1": "crossing/ddpm+euler k=1, n=3, trained=1"}


@pytest.mark.parametrize(
    ("study", "tokens", "words"),
    [
        ("diffusion_objective", ["scale=small"], "with 1 seed there is no interval and no test"),
        ("sampling_steps", ["games=[Pong]", "seeds=2"], "with 2 seeds there is no interval and no test"),
        ("sampling_steps", ["games=[Pong]"], "fall below 0.31 after Holm's correction over 5 comparisons"),
        ("sampling_steps", ["games=[Pong]", "sampler.num_steps=1,3"], "fall below 0.062 after Holm's correction over 1 comparison,"),
        ("sampling_steps", ["sampler.num_steps=2,3"], "there will be no answer"),
        ("sampling_steps", ["metrics=[psnr]"], "do not measure (lpips is not in metrics)"),
        ("network_size", ["metrics=[psnr]"], "do not measure (drift is not in metrics)"),
    ],
)
def test_a_dry_run_says_what_the_planned_runs_can_never_tell(study: str, tokens: list[str], words: str, tmp_path: Path) -> None:
    assert words in in_this_process("sweep", study, *tokens, "--dry-run", cwd=tmp_path).stdout


def test_averaged_and_last_weights_of_a_training_are_not_paired_when_it_is_said_what_runs_can_tell(tmp_path: Path) -> None:
    """As in a report: four unpaired runs on a side have a p-value of 2/70, four paired ones of 2/16 alone."""
    file = tmp_path / "mine.yaml"
    primary, axes = "{metric: drift, baseline: {of: last}, margin: 0.01}", "{of: {key: evaluation.weights, values: [last, ema]}}"
    file.write_text(
        STUDY.replace("{metric: drift}", primary).replace("seeds: 1", "seeds: 4") + f"set: {{training.ema: 0.9}}\naxes: {axes}\n"
    )
    assert limits(plan_study(str(file))) == []


def test_a_dry_run_names_families_where_they_are_not_diamond_alone(tmp_path: Path) -> None:
    for study, families in (
        ("world_model_family", "; families diamond, oracle, copy_last_frame;"),
        ("world_model_family_agent", "; families diamond, oracle;"),
        ("sampling_steps", ""),
    ):
        said = " ".join(in_this_process("sweep", study, "scale=tiny", "--dry-run", cwd=tmp_path).stdout.split())
        assert families in said
        assert ("; families" in said) == bool(families)


def test_naming_undecidable_comparisons_needs_no_pandas() -> None:
    code = (
        "import sys\nfrom diamond_bench.studies.answerable import limits\nfrom diamond_bench.studies.plan import plan_study\n"
        "limits(plan_study('sampling_steps'))\nprint(sorted({'torch', 'scipy', 'rliable', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
