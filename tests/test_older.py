"""What a sweep says after a kind's revision has risen."""

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import in_this_process
from test_report import finish, planned

from diamond_bench.config import EvaluationConfig, world_family
from diamond_bench.launch.attempt import run_job
from diamond_bench.results.older import older_results, older_sentence
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import KINDS, EvaluateWorldModel, job_id
from diamond_bench.store.states import JobState
from diamond_bench.worlds.oracle import Oracle


def earlier(spec: JobSpec) -> JobSpec:
    """The job as revision 1 had it, without the features of true frames among its inputs."""
    return replace(spec, inputs={name: ref for name, ref in spec.inputs.items() if name != "true_features"}, revision=1)


def test_a_sweep_says_what_is_older_what_is_reused_and_what_the_rest_costs(tmp_path: Path) -> None:
    tokens = ["sampler.num_steps=1,2", "seeds=2"]
    plan = planned(tmp_path, tokens)
    store = Store(tmp_path / "outputs", say=lambda text: None)
    evaluations = [spec for spec in plan.jobs.values() if spec.kind == "evaluate_world_model"]
    assert older_sentence(plan.jobs, store, store.states()) == ""
    for spec in plan.jobs.values():
        if spec.kind != "evaluate_world_model":
            finish(store, spec)
    assert older_sentence(plan.jobs, store, store.states()) == ""
    for spec in evaluations[:3]:
        finish(store, earlier(spec))
    said = older_sentence(plan.jobs, store, store.states())
    assert said.startswith("3 evaluations of an earlier revision exist and are kept; 1 dataset and 2 trainings are reused; the rest takes ")
    assert re.fullmatch(r".* takes [\d,]+( \w+)? to [\d,]+ (seconds|minutes|hours) of one device", said)
    shown = in_this_process("sweep", "mine.yaml", "scale=tiny", "data=random", *tokens, "--dry-run", cwd=tmp_path).stdout
    assert "3 evaluations of an earlier revision exist and are kept" in " ".join(shown.split())
    finish(store, evaluations[0])
    assert older_results(list(plan.jobs.values()), store.states()) == {"evaluate_world_model": 2}


def test_ten_thousand_jobs_are_looked_up_in_about_a_second() -> None:
    inputs = {name: JobRef(kind, "0" * 16) for name, kind in {"dataset": "collect_dataset", "world_model": "train_world_model"}.items()}
    specs = [JobSpec("evaluate_world_model", EvaluateWorldModel(evaluation=EvaluationConfig(seed=i)), inputs) for i in range(10_000)]
    ids = {name: ref.id for name, ref in inputs.items()}
    assert KINDS["evaluate_world_model"].revision >= 2
    old = [JobRef(spec.kind, job_id(spec.kind, spec.config, ids, 1)) for spec in specs[:7000]]
    states = {ref: JobState("done") for ref in old}
    for spec in specs:
        spec.ref  # noqa: B018  (identities of the plan are known by then)
    began = time.process_time()
    assert older_results(specs, states) == {"evaluate_world_model": 7000}
    assert time.process_time() - began < 2.0


def test_jobs_of_an_earlier_revision_of_a_family_are_read_and_named_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "outputs", say=lambda text: None)
    dataset = JobRef("collect_dataset", "0" * 16)
    finished, begun = (
        JobSpec("evaluate_world_model", EvaluateWorldModel(evaluation=EvaluationConfig(seed=seed), family=Oracle()), {"dataset": dataset})
        for seed in (0, 1)
    )
    finish(store, finished)
    store.prepare(begun)
    assert "family_revision: 1\n" in (store.folder(finished.ref) / "config.yaml").read_text()
    monkeypatch.setattr("diamond_bench.worlds.oracle.FAMILY", replace(world_family(Oracle()), revision=2))
    again = replace(finished)
    assert again.ref != finished.ref
    assert store.spec(finished.ref) == replace(finished, revision=KINDS[finished.kind].revision, of_family=1)
    assert older_results([again], store.states()) == {"evaluate_world_model": 1}
    end = run_job(store, begun.ref, "cpu")
    assert (end.name, end.text.partition(":")[0]) == (
        "failed",
        f"job {begun.ref} was prepared for revision 1 of family=oracle, and this diamond-bench has revision 2",
    )
