"""What is settled before SLURM is asked: from a plan to arrays, every job once, after what it needs and after nothing else; and what of a
profile cannot be."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from fake_jobs import Count
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_bench.config import Resources, SlurmCluster
from diamond_bench.errors import UserError
from diamond_bench.launch.slurm.request import check_limits, check_profile, executor, limit_of, minutes, sbatch_file
from diamond_bench.launch.slurm.waves import Array, Condition, arrays
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.studies.plan import plan_study

Specs = dict[JobRef, JobSpec]
TWO = ("training.accumulation=2", "execution.num_processes=2")
"""A training of two processes."""


def job(kind: str, name: str, **inputs: JobSpec) -> JobSpec:
    return JobSpec(kind, Count(name), {key: spec.ref for key, spec in inputs.items()}, revision=1)


_LOGGING = """
import logging, sys
from pathlib import Path
from types import SimpleNamespace
from diamond_bench.config import SlurmCluster
from diamond_bench.launch.slurm import client, request
logging.getLogger().addHandler(logging.FileHandler(sys.argv[1], mode="w"))
if sys.argv[2] == "submit":
    batch = SimpleNamespace(kind="train_world_model", label="label", comment="comment", minutes=10)
    request.executor(SlurmCluster(), batch, Path("folder"), None)
else:
    client.accounted([])
logging.warning("%s %s", "submitit" in sys.modules, "SUBMITIT_LOG_LEVEL" in __import__("os").environ)
"""


@pytest.mark.parametrize("part", ["submit", "account"])
def test_a_program_keeps_its_log_handlers(part: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-P", "-c", _LOGGING, str(tmp_path / "log"), part], check=True)
    assert (tmp_path / "log").read_text() == "True False\n"


def dataset(name: str) -> JobSpec:
    return job("collect_dataset", name)


def probe(name: str, data: JobSpec) -> JobSpec:
    return job("train_state_probe", name, dataset=data)


def training(name: str, data: JobSpec) -> JobSpec:
    return job("train_world_model", name, dataset=data)


def evaluation(name: str, data: JobSpec, model: JobSpec, **more: JobSpec) -> JobSpec:
    return job("evaluate_world_model", name, dataset=data, world_model=model, **more)


def planned(
    specs: Sequence[JobSpec], *, done: Sequence[JobSpec] = (), jobs_in_flight: Mapping[JobRef, str] | None = None, most: int = 1000
) -> list[Array]:
    """The arrays of `specs`, less those done or in flight, one job a task."""
    by_ref = {spec.ref: spec for spec in specs}
    jobs_in_flight = jobs_in_flight or {}
    todo = [ref for ref in by_ref if ref not in jobs_in_flight and ref not in {spec.ref for spec in done}]
    return arrays(by_ref, todo, jobs_in_flight, lambda kind: 1, most)


def conditions(built: Sequence[Array], number: int, element: int) -> set[Condition]:
    """What an element waits for."""
    array = built[number]
    concurrent = {(array.aligned, element)} if array.aligned is not None else set()
    return {*array.after, *concurrent}


def closure(built: Sequence[Array], number: int, element: int) -> set[Condition]:
    """What an element waits for, and what that waits for, and so on."""
    found: set[Condition] = set()
    for condition in conditions(built, number, element):
        found |= {condition} if isinstance(condition, str) else {condition, *closure(built, *condition)}
    return found


def ancestors(specs: Specs, ref: JobRef) -> set[JobRef]:
    direct = set(specs[ref].inputs.values())
    return direct.union(*(ancestors(specs, need) for need in direct))


def elements(built: Sequence[Array]) -> Iterator[tuple[int, int, tuple[JobRef, ...]]]:
    return ((number, element, jobs) for number, array in enumerate(built) for element, jobs in enumerate(array.tasks))


def labels(specs: Sequence[JobSpec], array: Array) -> list[str]:
    """The names of an array's jobs, one job a task."""
    names = {spec.ref: spec.config.name for spec in specs}
    return [names[ref] for (ref,) in array.tasks]


def test_an_evaluation_waits_for_its_own_training_alone() -> None:
    data = dataset("data")
    models = [training(f"model{i}", data) for i in range(4)]
    evaluations = [evaluation(f"{model.config.name}-{k}", data, model) for k in range(3) for model in models]
    specs = [data, *models, *evaluations]
    built = planned(specs)
    assert [(array.kind, len(array.tasks)) for array in built] == [
        ("collect_dataset", 1),
        ("train_world_model", 4),
        *[("evaluate_world_model", 4)] * 3,
    ]
    assert (built[1].aligned, built[1].after) == (None, ((0, 0),))
    for array in built[2:]:
        assert (array.aligned, array.after) == (1, ())  # the dataset is not said: the training waited for it
        assert [name.partition("-")[0] for name in labels(specs, array)] == labels(specs, built[1])


def test_many_evaluations_of_few_trainings_are_an_array_each_training() -> None:
    data = dataset("data")
    models = [training(f"model{i}", data) for i in range(2)]
    evaluations = [evaluation(f"{model.config.name}-{k}", data, model) for model in models for k in range(5)]
    built = planned([data, *models, *evaluations])
    assert [(len(array.tasks), array.aligned, array.after) for array in built[2:]] == [(5, None, ((1, 0),)), (5, None, ((1, 1),))]


def test_a_job_that_several_wait_for_comes_first_so_that_its_dependents_follow_it() -> None:
    data = dataset("data")
    models = [training(f"model{i}", data) for i in range(5)]
    wanted = {"model0": 1, "model1": 2, "model2": 0, "model3": 2, "model4": 1}
    evaluations = [evaluation(f"{m.config.name}-{k}", data, m) for m in models for k in range(wanted[m.config.name])]
    specs = [data, *models, *evaluations]
    built = planned(specs)
    assert labels(specs, built[1]) == ["model1", "model3", "model0", "model4", "model2"]
    assert [(len(array.tasks), array.aligned, array.after) for array in built[2:]] == [(4, 1, ()), (2, 1, ())]


def test_arrays_end_at_the_cluster_s_largest() -> None:
    data = dataset("data")
    models = [training(f"model{i}", data) for i in range(25)]
    evaluations = [evaluation(f"eval{i}", data, model) for i, model in enumerate(models)]
    built = planned([data, *models, *evaluations], most=10)
    assert [len(array.tasks) for array in built] == [1, 10, 10, 5, 10, 10, 5]
    assert [array.aligned for array in built] == [None, None, None, None, 1, 2, 3]


def test_packed_jobs_wait_for_the_same() -> None:
    first, second = dataset("first"), dataset("second")
    models = [training(f"{data.config.name}{i}", data) for i in range(3) for data in (first, second)]
    by_ref = {spec.ref: spec for spec in [first, second, *models]}
    built = arrays(by_ref, list(by_ref), {}, lambda kind: 2 if kind == "train_world_model" else 1, 1000)
    names = {ref: spec.config.name for ref, spec in by_ref.items()}
    packs = sorted(sorted(names[ref] for ref in jobs) for _, _, jobs in elements(built) if jobs[0].kind == "train_world_model")
    assert packs == [["first0", "first1"], ["first2"], ["second0", "second1"], ["second2"]]


def test_dependents_of_a_packed_task_wait_for_it() -> None:
    data = dataset("data")
    models = [training(f"model{i}", data) for i in range(4)]
    evaluations = [evaluation(f"eval{i}", data, model) for i, model in enumerate(models)]
    by_ref = {spec.ref: spec for spec in [data, *models, *evaluations]}
    built = arrays(by_ref, list(by_ref), {}, lambda kind: 2 if kind == "train_world_model" else 1, 1000)
    assert [len(array.tasks) for array in built] == [1, 2, 2, 2]
    assert [array.aligned for array in built] in ([None, None, 1, 1], [None, None, None, None])


def test_what_was_submitted_earlier_is_waited_for_by_its_id() -> None:
    data = dataset("data")
    models = [training(f"model{i}", data) for i in range(2)]
    evaluations = [evaluation(f"eval{i}", data, model) for i, model in enumerate(models)]
    jobs_in_flight = {data.ref: "7", models[0].ref: "8_0", models[1].ref: "8_1"}
    built = planned([data, *models, *evaluations], jobs_in_flight=jobs_in_flight)
    assert [array.after for array in built] == [("8_0",), ("8_1",)]
    (alone,) = planned([data, models[0]], jobs_in_flight={data.ref: "7"})
    assert alone.after == ("7",)


def test_what_is_done_is_not_waited_for() -> None:
    data, model = dataset("data"), training("model", dataset("data"))
    (alone,) = planned([data, model], done=[data])
    assert (alone.aligned, alone.after) == (None, ())


def test_an_evaluation_waits_for_training_and_probe_and_they_for_the_dataset() -> None:
    data = dataset("data")
    seen = probe("probe", data)
    models = [training(f"model{i}", data) for i in range(3)]
    evaluations = [evaluation(f"eval{i}", data, model, state_probe=seen) for i, model in enumerate(models)]
    specs = [data, seen, *models, *evaluations]
    built = planned(specs)
    where = {ref: (number, element) for number, element, (ref,) in elements(built)}
    for model, one in zip(models, evaluations, strict=True):
        assert conditions(built, *where[one.ref]) == {where[model.ref], where[seen.ref]}
    assert len(built) == 4


@st.composite
def plans(draw: st.DrawFn) -> tuple[Specs, list[JobRef], dict[JobRef, str], dict[str, int], int]:
    """(specs, what is to be done, what is in flight, jobs a task by kind, largest array): a study of which some was done or submitted."""
    datasets = [dataset(f"data{i}") for i in range(draw(st.integers(1, 3)))]
    some = st.sampled_from
    probes = [probe(f"probe{i}", data) for i, data in enumerate(datasets) if draw(st.booleans())]
    probe_of = {spec.inputs["dataset"]: spec for spec in probes}
    models = [training(f"model{i}", draw(some(datasets))) for i in range(draw(st.integers(0, 7)))]
    by_ref = {spec.ref: spec for spec in datasets}
    evaluations = []
    for i in range(draw(st.integers(0, 16)) if models else 0):
        model = draw(some(models))
        data = by_ref[model.inputs["dataset"]]
        more = {"state_probe": probe_of[data.ref]} if data.ref in probe_of and draw(st.booleans()) else {}
        evaluations.append(evaluation(f"eval{i}", data, model, **more))
    specs = {spec.ref: spec for spec in [*datasets, *probes, *models, *evaluations]}
    stage: dict[JobRef, int] = {}
    for ref, spec in specs.items():  # 0 done, 1 in flight, 2 to be done: never further than what it needs
        stage[ref] = max([draw(st.integers(0, 2)), *(stage[need] for need in spec.inputs.values())])
    order = draw(st.permutations(list(specs)))
    jobs_in_flight = {ref: f"{900 + place // 3}_{place % 3}" for place, ref in enumerate(order) if stage[ref] == 1}
    packed = {kind: draw(st.integers(1, 3)) for kind in sorted({ref.kind for ref in specs})}
    return {ref: specs[ref] for ref in order}, [ref for ref in order if stage[ref] == 2], jobs_in_flight, packed, draw(st.integers(1, 6))


@settings(max_examples=300, deadline=None)
@given(plans())
def test_every_job_once_and_after_its_needs(plan: tuple[Specs, list[JobRef], dict[JobRef, str], dict[str, int], int]) -> None:
    specs, todo, jobs_in_flight, packed, most = plan
    built = arrays(specs, todo, jobs_in_flight, packed.__getitem__, most)
    assert Counter(ref for _, _, jobs in elements(built) for ref in jobs) == Counter(todo)
    where: dict[JobRef, Condition] = dict(jobs_in_flight)
    held: dict[Condition, set[JobRef]] = {}
    for number, element, jobs in elements(built):
        where.update(dict.fromkeys(jobs, (number, element)))
        assert {ref.kind for ref in jobs} == {built[number].kind}
        assert 1 <= len(jobs) <= packed[built[number].kind]
    for ref, condition in where.items():
        held.setdefault(condition, set()).add(ref)
    for number, array in enumerate(built):
        assert 1 <= len(array.tasks) <= most
        if array.aligned is not None:  # SLURM's aftercorr needs an array on both sides
            assert array.aligned < number
            assert 1 < len(array.tasks) <= len(built[array.aligned].tasks)
    for number, element, jobs in elements(built):
        waits = conditions(built, number, element)
        assert all(isinstance(condition, str) or (condition[0] < number and condition in held) for condition in waits)
        everything = closure(built, number, element)
        for ref in jobs:
            lineage = ancestors(specs, ref)
            implied = {further for need in lineage if need in jobs_in_flight for further in ancestors(specs, need)}
            assert {where[need] for need in lineage - implied if need in where} <= everything
        above = set().union(*(ancestors(specs, ref) for ref in jobs))
        assert all(held[condition] & above for condition in waits)  # it waits for nothing that none of its jobs needs


@pytest.mark.parametrize("text", ["soon", "", "-5", "1:2:3:4", "1-2-3", "30s", "4h", "0", "0:59"])
def test_a_time_that_is_none_is_named(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"cluster.time={text!r}")):
        limit_of(SlurmCluster(time=text), "train_agent")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 2), ("10:00", 10), ("4:00:00", 240), ("0:00:61", 2), ("2-0", 2880), ("1-12:30", 2190), ("1-00:00:01", 1441)],
)
def test_times_are_read_as_slurm_writes_them(text: str, expected: int) -> None:
    assert minutes(text, "cluster.time") == expected


def test_a_limit_below_the_time_between_checkpoints_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    far = {"training.checkpoint_every": 10**10, "training.num_steps": 10**10}
    near = {"training.checkpoint_every": 10, "training.num_steps": 10**10}
    for values, refused in ((far, True), (near, False)):
        tokens = [f"{key}={value}" for key, value in values.items()]
        plan = plan_study("sampling_steps", ["scale=tiny", "cluster=slurm", "cluster.time=2:00:00", *tokens])
        assert isinstance(plan.cluster, SlurmCluster)
        if refused:
            with pytest.raises(UserError, match=r"cluster\.time=2:00:00: about \d+ minutes pass .*training\.checkpoint_every=10000000000"):
                check_limits(plan.cluster, plan.jobs, plan.jobs, store, {})
        else:
            check_limits(plan.cluster, plan.jobs, plan.jobs, store, {})
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["cluster.train_world_model.nodes=2"], r"train_world_model\.nodes=2: .* has one process.*set execution\.num_processes=2"),
        (
            [*TWO, "cluster.train_world_model.nodes=3"],
            r"has 2 processes.*num_processes=3 or cluster\.train_world_model\.nodes=1",
        ),
        (["cluster.evaluate_world_model.nodes=2"], r"cluster\.evaluate_world_model\.nodes=2: .* has one process"),
        ([*TWO, "cluster.train_world_model.nodes=2", "cluster.packed=2"], r"packed=2"),
        ([*TWO, "cluster.train_world_model.nodes=2", "cluster.scratch=/tmp"], r"cluster\.scratch=/tmp"),
        ([*TWO, "cluster.train_world_model.nodes=2"], None),
        ([*TWO], r"num_processes=2: each process uses a GPU, and a train_world_model requests 1"),
    ],
)
def test_nodes_that_the_processes_of_a_training_cannot_share_are_refused(tokens: list[str], message: str | None, tmp_path: Path) -> None:
    plan = plan_study("sampling_steps", ["scale=tiny", "cluster=slurm", *tokens])
    assert isinstance(plan.cluster, SlurmCluster)
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        check_limits(plan.cluster, plan.jobs, plan.jobs, Store(tmp_path / "outputs"), {})


def test_a_training_on_two_nodes_is_one_task_on_the_first(tmp_path: Path) -> None:
    """Its processes on the other node are steps of the same job, which the task starts."""
    cluster = SlurmCluster(train_world_model=Resources(nodes=2, gpus=4))
    for kind, nodes in (("train_world_model", 2), ("evaluate_world_model", 1)):
        batch = Batch("1", "label", "study", kind, ((JobRef(kind, "1"),),), 60, 120, 1, 30.0)
        text = sbatch_file(executor(cluster, batch, tmp_path, None), 1)
        assert f"#SBATCH --nodes={nodes}\n" in text
        assert ("export DIAMOND_BENCH_NODES=2\n" in text) == (nodes == 2)
        assert ("--ntasks-per-node=1\n" in text, "--nodes=1 --ntasks=1" in text) == ((True, True) if nodes == 2 else (False, False))


def test_a_kind_s_own_limit_is_named(tmp_path: Path) -> None:
    plan = plan_study("sampling_steps", ["scale=tiny", "cluster=slurm", "cluster.train_agent.time=0:01:00"])
    assert isinstance(plan.cluster, SlurmCluster)
    with pytest.raises(UserError, match=r"cluster\.train_agent\.time=0:01:00"):
        check_profile(plan.cluster)


@pytest.mark.parametrize(
    ("content", "tokens", "words"),
    [
        (None, ["cluster=slrum"], ["cluster=slrum", "slurm"]),
        (None, ["cluster=slurm", "cluster.partitoin=gpu"], ["cluster.partitoin", "partition"]),
        (None, ["cluster=slurm", "cluster.setup=[id]"], ["cluster.setup", "profile"]),
        (None, ["cluster=slurm", "cluster.gpus=-1"], ["cluster.gpus"]),
        (None, ["cluster=missing.yaml"], ["missing.yaml"]),
        ("partitoin: gpu\n", [], ["partitoin", "partition"]),
        ("memory: [1\n", [], ["not valid YAML"]),
        ("just words\n", [], ["no group of keys"]),
        ("train_agent: {tiem: '1:00:00'}\n", [], ["tiem", "time"]),
        ("cpus: many\n", [], ["cpus", "many"]),
    ],
)
def test_what_a_profile_gets_wrong_is_named(
    content: str | None, tokens: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIAMOND_BENCH_OUTPUTS", str(tmp_path / "outputs"))
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content)
        tokens = [f"cluster={tmp_path}/mine.yaml"]
    with pytest.raises(UserError) as refusal:
        plan_study("sampling_steps", ["scale=tiny", *tokens])
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert not (tmp_path / "outputs").exists()
