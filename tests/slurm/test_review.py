"""What a review of cluster=slurm found, on a real SLURM: signals at bad moments, submissions that meet or die, strange surroundings."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cluster import Cluster
from fake_jobs import add, count
from stores import hold_up_once, make_store, use
from test_tasks import address, joined, ordered, printed, steps, submitted, until, until_stands, worker_of

from diamond_bench.errors import UserError
from diamond_bench.launch.slurm.client import queue
from diamond_bench.launch.slurm.follow import cancel_jobs, wait
from diamond_bench.launch.slurm.queue_status import queue_status
from diamond_bench.launch.slurm.submit import _send, requested, submit
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import read_batches, write_batch
from diamond_bench.store.jobspec import JobRef, JobSpec

HELD = {"extra": ("hold",)}


@dataclass(frozen=True)
class Preempting:
    """A cluster whose partition `short` preempts, with what was submitted to it: job and dependent, of each sort."""

    cluster: Cluster
    store: Store
    ledger: Path
    preempted: tuple[JobSpec, JobSpec]
    tasks: dict[JobRef, str]
    """SLURM's ids of these two."""
    urgent: str
    """SLURM's id of what took their place."""
    broken: tuple[JobSpec, JobSpec]


@pytest.fixture(scope="module")
def preempting(running_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preempting]:
    folder = tmp_path_factory.mktemp("preempting")
    ledger = folder / "ledger"
    broken = count("broken")
    preempted = count("preempted", steps=8, pause=0.3, ledger=str(ledger))
    jobs = (preempted, add("after", preempted.ref))
    blocked = (broken, add("blocked", broken.ref))
    conf = "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE"
    with Cluster(folder / "slurm", extra_conf=conf) as cluster, pytest.MonkeyPatch.context() as patch:
        use(cluster, patch)
        cluster.run("scontrol", "update", "PartitionName=main", "PriorityTier=1", "GraceTime=60")
        cluster.run("scontrol", "update", "PartitionName=short", "PriorityTier=2")
        store = make_store(folder)
        submit(store, replace(ordered(blocked, retries=1), device="cuda:9"), lambda text: None)
        submitted(store, jobs, gpus=2)
        worker_of(ledger, "preempted")
        tasks = {spec.ref: address(store, spec) for spec in jobs}
        urgent = cluster.run("sbatch", "--parsable", "--partition=short", "--gpus=2", "--mem=50M", "--output=/dev/null", "--wrap=sleep 1")
        patch.undo()
        yield Preempting(cluster, store, ledger, jobs, tasks, urgent, blocked)


@pytest.fixture
def on_the_cluster(preempting: object, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    use(cluster, monkeypatch)


# Signals at bad moments


def test_a_signal_before_python_can_hear_it_requeues_that_element_alone(
    cluster: Cluster, store: Store, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last element of an array, whose own id in SLURM is the array's: to requeue that would be to requeue all of them."""
    once = hold_up_once(tmp_path, monkeypatch, 60, where="os.environ.get('SLURM_ARRAY_TASK_ID') == '2'")
    others = [count(f"other{i}", steps=12, pause=0.2, ledger=str(ledger)) for i in range(2)]
    last = count("last", ledger=str(ledger))
    submitted(store, [*others, last])
    (batch,) = read_batches(store.root)
    assert batch.tasks[2] == (last.ref,)
    until(lambda: not once.exists())
    for spec in others:
        worker_of(ledger, spec.config.name)
    assert cluster.run("squeue", "--noheader", "--jobs", f"{batch.array}_2", "--format=%A") == batch.array
    cluster.run("scancel", "--signal=USR2", f"{batch.array}_2")
    until(lambda: queue()[f"{batch.array}_2"].restarts)
    for spec in (*others, last):
        until_stands(store, spec, "done")
        assert steps(ledger, spec.config.name) == list(range(spec.config.steps))
    found = queue()
    assert [found[f"{batch.array}_{element}"].restarts for element in range(3)] == [0, 0, 1]
    assert [store.state(spec.ref).attempt for spec in others] == [1, 1]


@pytest.mark.parametrize("time", ["20", "1"])
def test_a_job_that_is_cancelled_while_it_saves_stays_cancelled(time: str, cluster: Cluster, store: Store, ledger: Path) -> None:
    """It comes to a step boundary, where it can save, only every one and a half seconds; of a minute, all counts as near the limit."""
    job = count("job", steps=20, pause=1.5, ledger=str(ledger))
    after = add("after", job.ref)
    submitted(store, [job, after], time=time)
    until(lambda: steps(ledger, "job"))
    task = address(store, job)
    cluster.run("scancel", "--signal=USR2", task)
    assert cancel_jobs(store, {job.ref}).jobs == (job.ref,)
    until(lambda: not queue()[task].active)
    assert (joined(store, job).status, joined(store, job).text) == ("cancelled", "by diamond-bench cancel")
    assert store.state(job.ref).status == "preempted"  # it had the time to save
    assert (queue()[task].state, queue()[task].restarts) == ("CANCELLED", 0)
    assert "requeued as" not in printed(store, job)
    until_stands(store, after, "cancelled")


# Submissions that meet, or die


@pytest.mark.parametrize("begun", [False, True])
def test_of_two_submissions_at_once_the_second_submits_nothing_twice(begun: bool, cluster: Cluster, store: Store) -> None:
    """The first is at work while the second plans: it had written no record yet, or one without SLURM's id."""
    jobs = [count(f"job{i}") for i in range(3)]
    order = ordered(jobs, **HELD)
    (request,) = requested(store, order).requests
    for spec in jobs:
        store.prepare(spec)
    if begun:
        write_batch(store.root, request.batch)
    met: list[str | None] = []

    def meet(ref: object) -> bool:
        if not met:
            met.append(None)
            met[:] = [_send(store.root, request.batch, order.cluster, None).array]
        return True

    sent = submit(store, replace(order, only=meet), lambda text: None)
    assert (sent.jobs, sent.in_flight) == (0, 3)
    assert set(cluster.run("squeue", "--noheader", "--format=%F").split()) == {met[0]}


def test_what_was_submitted_but_not_recorded_is_known_by_its_name(cluster: Cluster, store: Store) -> None:
    jobs = [count(f"job{i}") for i in range(2)]
    alone = count("alone")
    submitted(store, jobs, **HELD)
    submitted(store, [alone], time="10", **HELD)
    tasks = {address(store, spec) for spec in (*jobs, alone)}
    for batch in read_batches(store.root):
        write_batch(store.root, replace(batch, array=None))
    found = queue_status(store)
    assert set(found.tasks.values()) == tasks
    assert {(state.status, state.text) for state in found.states.values()} == {("pending", "JobHeldUser")}
    again = submitted(store, [*jobs, alone], **HELD)
    assert (again.jobs, again.in_flight) == (0, 3)
    assert len(cancel_jobs(store, {jobs[0].ref, alone.ref}).jobs) == 2
    until(lambda: len(cluster.run("squeue", "--noheader", "--array").splitlines()) == 1)
    assert [joined(store, spec).status for spec in (jobs[0], alone, jobs[1])] == ["cancelled", "cancelled", "pending"]
    assert submitted(store, [*jobs, alone], **HELD).jobs == 2


def test_what_needs_a_done_job_of_a_running_task_alone_starts_at_once(store: Store, ledger: Path) -> None:
    quick, long = count("quick"), count("long", steps=60, pause=0.3, ledger=str(ledger))
    after = add("after", quick.ref)
    submitted(store, [quick, long], packed=2)
    until(lambda: store.state(quick.ref).status == "done")
    sent = submitted(store, [quick, long, after], packed=2)
    assert [(request.batch.tasks, request.array.after) for request in sent.requests] == [(((after.ref,),), ())]
    assert (sent.done, sent.in_flight) == (1, 1)
    until_stands(store, after, "done")
    assert joined(store, long).status == "running"


def test_an_array_has_as_many_tasks_as_the_profile_allows_at_most(store: Store) -> None:
    jobs = [count(f"job{i}") for i in range(5)]

    def sizes(largest: int) -> list[int]:
        return [len(request.batch.tasks) for request in requested(store, ordered(jobs, largest=largest)).requests]

    assert [sizes(largest) for largest in (0, 2, 5000)] == [[5], [2, 2, 1], [5]]
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cpus": 9}, r"cluster\.cpus=9: .* at most 8 CPUs"),
        ({"memory": "63G"}, r"cluster\.memory=63G: "),
        ({"gpus": 3}, r"cluster\.gpus=3: "),
    ],
)
def test_what_the_node_cannot_serve_is_refused_by_name(asked: dict[str, object], message: str, store: Store) -> None:
    with pytest.raises(UserError, match=message):
        submitted(store, [count("job")], **asked)
    assert not store.root.exists()


def test_waiting_ends_where_a_job_was_never_given_to_slurm(store: Store) -> None:
    given, never = count("given"), count("never")
    submitted(store, [given])
    store.prepare(never)
    looks: list[str] = []

    def look(states: object) -> None:
        looks.append(queue_status(store).states[given.ref].status)
        assert looks.count("done") < 3, "it waits for what nobody runs"

    states = wait(store, [given.ref, never.ref], look, every=0.2)
    assert [states[spec.ref].status for spec in (given, never)] == ["done", "pending"]


# Strange surroundings


def test_variables_for_slurm_s_commands_change_nothing(cluster: Cluster, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "SQUEUE_NAMES": "another",
        "SQUEUE_STATES": "RUNNING",
        "SINFO_PARTITION": "short",
        "SBATCH_TIMELIMIT": "1",
        "SBATCH_PARTITION": "short",
        "SBATCH_EXPORT": "NONE",
        "SCANCEL_NAME": "another",
        "SLURM_EXPORT_ENV": "NONE",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    job, held = count("job"), count("held")
    sent = submitted(store, [job], partition="main")
    assert submitted(store, [job], partition="main").jobs == 0
    submitted(store, [held], partition="main", **HELD)
    assert {name: os.environ[name] for name in variables} == variables
    task = address(store, held)
    assert cluster.run("squeue", "--noheader", "--jobs", task, "--format=%P %l") == "main 20:00"
    assert cancel_jobs(store, {held.ref}).jobs == (held.ref,)
    until(lambda: joined(store, held).status == "cancelled")
    until_stands(store, job, "done")
    assert sent.jobs == 1


def test_a_folder_s_name_runs_nothing(on_the_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store = make_store(tmp_path / """a blank, 'quotes' and "quotes" $(touch X) `touch X` ; touch X & #""")
    job = count("job")
    submitted(store, [job], scratch="$NOT_SET_ON_THIS_NODE/disk")
    until_stands(store, job, "done")
    assert "CUDA_VISIBLE_DEVICES=" in printed(store, job)
    assert "cluster.scratch=$NOT_SET_ON_THIS_NODE/disk is not set on this node" in printed(store, job)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("name", ["back\\slash", "per%j%cent", "line\ntouch X"])
def test_a_folder_s_name_that_slurm_would_read_otherwise_is_refused(name: str, on_the_cluster: None, tmp_path: Path) -> None:
    store = make_store(tmp_path / name)
    with pytest.raises(UserError, match="SLURM"):
        submitted(store, [count("job")], **HELD)
    assert not store.root.exists()


def test_a_site_that_changes_comments_is_refused(cluster: Cluster, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sbatch is the real one, after which the site's plugin writes its own words."""
    plugin = tmp_path / "site" / "sbatch"
    plugin.parent.mkdir()
    plugin.write_text(
        "#!/bin/sh\n"
        f'said=$({shutil.which("sbatch")} "$@") || exit $?\n'
        'echo "$said"\n'
        'case "$said" in Submitted*) scontrol update "JobId=${said##* }" "Comment=of the site";; esac\n'
    )
    plugin.chmod(0o755)
    monkeypatch.setenv("PATH", str(plugin.parent), prepend=os.pathsep)
    jobs = [count(f"job{i}") for i in range(2)]
    with pytest.raises(UserError, match="changes the comments of jobs"):
        submitted(store, [*jobs, add("after", jobs[0].ref)], **HELD)
    until(lambda: not cluster.run("squeue", "--noheader"))
    assert len(read_batches(store.root)) == 1


# On a cluster of its own, begun before the rest: SLURM takes seconds to start again what was requeued


def test_a_job_preempted_with_a_grace_time_saves_and_goes_back_in_line(preempting: Preempting, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM says so with SIGTERM while the task still counts as running, as it does of no other end; what needs the job waits on."""
    use(preempting.cluster, monkeypatch)
    store = preempting.store
    preempted, after = preempting.preempted
    until_stands(store, after, "done")
    entries, tasks = queue(), preempting.tasks
    assert entries[preempting.urgent].state == "COMPLETED"
    assert f"saved: requeued as {tasks[preempted.ref]}" in printed(store, preempted)
    assert {ref: queue_status(store).tasks[ref] for ref in tasks} == tasks
    assert [entries[tasks[spec.ref]].restarts for spec in (preempted, after)] == [1, 0]
    assert [store.state(spec.ref).attempt for spec in (preempted, after)] == [2, 1]
    assert steps(preempting.ledger, "preempted") == list(range(8))


def test_a_task_without_a_device_is_tried_again_then_failed(preempting: Preempting, monkeypatch: pytest.MonkeyPatch) -> None:
    use(preempting.cluster, monkeypatch)
    store = preempting.store
    broken, blocked = preempting.broken
    state = until_stands(store, broken, "failed")
    assert "execution.device=cuda:9" in state.error
    assert queue()[address(store, broken)].restarts == 1
    until_stands(store, blocked, "cancelled")
    assert joined(store, blocked).text == "a job it needs failed or was cancelled"
