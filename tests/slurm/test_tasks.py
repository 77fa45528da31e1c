"""What runs in an allocation of a real SLURM: preempted, stopped, killed, failing, packed; nothing lost, nothing done twice."""

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import Cluster
from fake_jobs import add, count
from stores import hold_up_once, make_store, use

from diamond_bench.config import SlurmCluster
from diamond_bench.errors import UserError
from diamond_bench.launch.slurm.client import queue
from diamond_bench.launch.slurm.follow import wait
from diamond_bench.launch.slurm.queue_status import queue_status
from diamond_bench.launch.slurm.submit import Order, Requests, submit
from diamond_bench.launch.slurm.task import TaskMemory, _learned
from diamond_bench.launch.summary import Summary
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch, batch_folder, newest, read_batches
from diamond_bench.store.files import read_json
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.states import JobState

PIECE = Batch("piece", "fake/count", "fake", "count", ((),), minutes=60, signal_seconds=120, retries=2, retry_seconds=30.0)


@pytest.fixture(scope="module")
def limited(running_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, JobSpec, Path]]:
    """(store, job, ledger): a job that SLURM's time limit meets, on a cluster of its own since that takes SLURM most of a minute."""
    folder = tmp_path_factory.mktemp("limited")
    ledger = folder / "ledger"
    job = count("limited", steps=45, pause=0.75, ledger=str(ledger))
    with Cluster(folder / "slurm") as cluster, pytest.MonkeyPatch.context() as patch:
        use(cluster, patch)
        store = make_store(folder)
        submitted(store, [job], time="1", signal_seconds=45)
        patch.undo()
        yield store, job, ledger


@pytest.fixture
def on_the_cluster(limited: object, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    use(cluster, monkeypatch)


def ordered(specs: Sequence[JobSpec], **profile: object) -> Order:
    """An order for small allocations that are tried again without a pause."""
    asked = {"memory": "100M", "cpus": 1, "gpus": 0, "time": "20", "signal_seconds": 10, "retry_seconds": 0.0, **profile}
    return Order({spec.ref: spec for spec in specs}, SlurmCluster(**asked), "fake", device="cpu", kinds="fake_jobs:KINDS")  # type: ignore[arg-type]


def submitted(store: Store, specs: Sequence[JobSpec], **profile: object) -> Requests:
    """Submits what is missing of `specs`."""
    return submit(store, ordered(specs, **profile), lambda text: None)


def joined(store: Store, spec: JobSpec) -> JobState:
    """How a job stands."""
    return queue_status(store).states[spec.ref]


def until(condition: Callable[[], object], seconds: float = 150.0) -> None:
    """Waits until `condition()` is true."""
    end, pause = time.monotonic() + seconds, 0.1
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(pause)
        pause = min(0.3, 1.3 * pause)  # most conditions start a client of SLURM, which takes time from other tests


def until_stands(store: Store, spec: JobSpec, status: str, seconds: float = 150.0) -> JobState:
    """Waits until a job stands as `status`; fails, telling how it does, where that takes too long."""
    end = time.monotonic() + seconds
    while (state := joined(store, spec)).status != status:
        assert time.monotonic() < end, f"{spec.config.name} is not {status} but {state}\n{printed(store, spec)}"
        time.sleep(0.5)
    return state


def address(store: Store, spec: JobSpec) -> str:
    """SLURM's id of a job's task."""
    return queue_status(store).tasks[spec.ref]


def printed(store: Store, spec: JobSpec) -> str:
    """What a job's last task printed."""
    batch, element = newest(read_batches(store.root))[spec.ref]
    log = batch_folder(store.root, batch.name) / f"{batch.address(element)}_0_log.out"
    return log.read_text() if log.exists() else "(no log)"


def lines(ledger: Path, name: str) -> list[tuple[int, int]]:
    """(step, process) of each step that a job made."""
    found = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
    return [(int(step), int(pid)) for job, step, pid in found if job == name]


def worker_of(ledger: Path, name: str) -> int:
    """The process that runs a job, once it has made three steps more."""
    before = len(lines(ledger, name))
    until(lambda: len(lines(ledger, name)) >= before + 3)
    return lines(ledger, name)[-1][1]


def steps(ledger: Path, name: str) -> list[int]:
    """The steps that a job made, in the order it made them."""
    return [step for step, _ in lines(ledger, name)]


def test_a_preempted_job_resumes_where_it_was_each_time_and_what_needs_it_waits(cluster: Cluster, store: Store, ledger: Path) -> None:
    long = count("long", steps=14, pause=0.3, ledger=str(ledger))
    after = add("after", long.ref, ledger=str(ledger))
    submitted(store, [long, after])
    for times in (1, 2):
        worker_of(ledger, "long")
        cluster.run("scancel", "--signal=USR2", address(store, long))
        state = until_stands(store, long, "requeued")
        assert state.done == len(steps(ledger, "long")) < 14
        assert joined(store, after).status == "pending"
        until(lambda: queue()[address(store, long)].restarts == times)  # noqa: B023 - called at once
    until_stands(store, after, "done")
    assert steps(ledger, "long") == list(range(14))
    assert store.result(after.ref).rows[0]["value"] == 17
    assert store.state(long.ref).attempt == 3
    assert store.result(long.ref).recorded["slurm_job"] == address(store, long)


def forced(store: Store, ref: JobRef, done: int) -> None:
    """Has a job stopped at a step, as a task that saves leaves it."""
    claim = store.claim(ref)
    assert claim is not None
    claim.progress(done, 100)
    claim.release()


def after_stop(store: Store, memory: TaskMemory, ref: JobRef, at: int, at_limit: bool = True) -> TaskMemory:
    """What a task knows when its job has resumed at a step and was stopped again."""
    forced(store, ref, at)
    return _learned(memory, PIECE, store, Summary((), (), {}, {}, (ref,), (), True), at_limit)


def test_only_time_limits_without_any_progress_between_them_count(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    job = count("slow")
    store.prepare(job)
    memory = TaskMemory()
    for at in (0, 10, 10, 20, 20):  # each resumes at the same step at most once more
        memory = after_stop(store, memory, job.ref, at)
    for _ in range(5):
        memory = after_stop(store, memory, job.ref, 20, at_limit=False)  # preempted
    assert memory.given_up == ()
    assert store.state(job.ref).status == "preempted"
    memory = after_stop(store, after_stop(store, memory, job.ref, 20), job.ref, 20)
    assert memory.given_up == (str(job.ref),)
    assert "time limit without progress" in store.state(job.ref).error


def test_the_pause_before_a_further_try_doubles_up_to_ten_minutes(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    ref = count("bad").ref
    failed = Summary((), (), {ref: "ValueError"}, {}, (), (), False)
    pauses, memory = [], TaskMemory()
    for _ in range(7):
        memory = _learned(memory, replace(PIECE, retries=6), store, failed, False)
        pauses.append(round(memory.not_before - time.time()))
    assert pauses[:-1] == [30, 60, 120, 240, 480, 600]
    assert (pauses[-1] < 0, memory.given_up) == (True, (str(ref),))


@pytest.mark.slow  # test_review.py sends this signal to one element of an array
def test_a_signal_before_python_can_hear_it_requeues_too(
    cluster: Cluster, store: Store, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = hold_up_once(tmp_path, monkeypatch, 5)
    job = count("job", ledger=str(ledger))
    submitted(store, [job])
    until(lambda: not once.exists())
    cluster.run("scancel", "--signal=USR2", address(store, job))
    until_stands(store, job, "requeued")
    until_stands(store, job, "done")
    assert steps(ledger, "job") == [0, 1, 2]


def test_a_job_that_every_time_limit_finds_where_it_was_is_given_up(cluster: Cluster, store: Store, ledger: Path) -> None:
    """With a limit of a minute any request to stop counts as SLURM's at the limit."""
    forgetful = count("forgetful", steps=500, pause=0.1, end="forgetful", ledger=str(ledger))
    submitted(store, [forgetful], time="1", signal_seconds=30)

    def stands() -> str:
        return joined(store, forgetful).status

    while stands() != "failed":  # where a start takes long, SLURM's own request comes before ours
        before = len(lines(ledger, "forgetful"))
        until(lambda: len(lines(ledger, "forgetful")) >= before + 3 or stands() == "failed")  # noqa: B023 - called at once
        cluster.call("scancel", "--signal=USR2", address(store, forgetful))
        until(lambda: stands() in ("requeued", "failed"))
    state = until_stands(store, forgetful, "failed")
    assert store.state(forgetful.ref).attempt >= 3  # an attempt that SLURM ends before its first step does not count
    assert "time limit without progress" in state.error
    assert "cluster.time" in state.error
    until(lambda: not queue()[address(store, forgetful)].active)


def test_a_job_that_fails_is_tried_again_once_and_again_by_the_next_sweep(store: Store, ledger: Path) -> None:
    bad = count("bad", end="exception", ledger=str(ledger))
    after = add("after", bad.ref)
    submitted(store, [bad, after], retries=1)
    seen: list[str] = []
    state = wait(store, [bad.ref, after.ref], lambda states: seen.append(states[bad.ref].status), every=0.2)[bad.ref]
    assert "requeued" in seen
    assert set(seen[seen.index("failed") :]) == {"failed"}  # nobody is told so while it is to be tried again
    assert (state.status, state.error, state.attempt) == ("failed", "ValueError: two lines", 2)
    assert Path(state.log).read_text().count("ValueError: two\nlines") == 2
    assert queue()[address(store, bad)].restarts == 1
    blocked = joined(store, after)
    assert (blocked.status, blocked.text) == ("cancelled", "a job it needs failed or was cancelled")
    (store.folder(bad.ref) / "mended").touch()
    assert submitted(store, [bad, after]).jobs == 2
    until_stands(store, after, "done")
    assert steps(ledger, "bad") == [0, 1, 2]  # it fails at the end: each further try resumes there


def test_a_killed_process_takes_no_neighbour_and_is_tried_again(store: Store, ledger: Path) -> None:
    one, other = (count(name, steps=20, pause=0.2, ledger=str(ledger)) for name in ("one", "other"))
    submitted(store, [one, other], gpus=1, packed=2)
    neighbour, victim = worker_of(ledger, "other"), worker_of(ledger, "one")
    assert neighbour != victim
    os.kill(victim, signal.SIGKILL)
    until_stands(store, one, "done")
    assert joined(store, other).status == "done"
    assert store.state(other.ref).attempt == 1
    assert queue()[address(store, one)].restarts == 1
    assert steps(ledger, "other") == list(range(20))
    built = Counter(steps(ledger, "one"))
    assert sorted(built) == list(range(20))
    assert sum(built.values()) <= 21  # the step it was killed in
    first, second = (store.result(spec.ref) for spec in (one, other))
    assert first.rows[0]["value"] == second.rows[0]["value"] == 20
    assert first.recorded["gpus"] in ("0", "1")
    assert (first.recorded["slurm_job"], first.recorded["gpus"]) == (second.recorded["slurm_job"], second.recorded["gpus"])


def test_a_killed_task_is_reported_as_killed_and_the_next_sweep_finishes_it(store: Store, ledger: Path) -> None:
    long = count("long", steps=15, pause=0.25, ledger=str(ledger))
    submitted(store, [long])
    worker = worker_of(ledger, "long")
    os.kill(int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)  # its parent, the task
    until(lambda: not queue()[address(store, long)].active)
    until(lambda: not Path(f"/proc/{worker}").exists())
    state = joined(store, long)
    assert (state.status, state.done) == ("failed", len(steps(ledger, "long")))
    assert "its task ended as FAILED" in state.error
    assert submitted(store, [long]).jobs == 1
    until_stands(store, long, "done")
    assert steps(ledger, "long") == list(range(15))


def test_scancel_lets_a_job_save_and_the_next_sweep_goes_on(cluster: Cluster, store: Store, ledger: Path) -> None:
    long = count("long", steps=15, pause=0.25, ledger=str(ledger))
    after = add("after", long.ref)
    submitted(store, [long, after])
    worker_of(ledger, "long")
    task = address(store, long)
    cluster.run("scancel", task)
    state = until_stands(store, long, "cancelled")
    assert state.text == "cancelled in SLURM"
    until_stands(store, after, "cancelled")
    assert store.state(long.ref).status == "preempted"
    assert (queue()[task].state, queue()[task].restarts) == ("CANCELLED", 0)
    assert submitted(store, [long, after]).jobs == 2
    until_stands(store, after, "done")
    assert steps(ledger, "long") == list(range(15))


def test_neighbours_go_on_without_a_job_that_is_given_up(cluster: Cluster, store: Store, ledger: Path) -> None:
    bad, long = count("bad", steps=1, end="exception", ledger=str(ledger)), count("long", steps=20, pause=0.3, ledger=str(ledger))
    submitted(store, [bad, long], packed=2, retries=0)
    worker_of(ledger, "long")
    cluster.run("scancel", "--signal=USR2", address(store, long))
    until_stands(store, long, "done")
    until(lambda: not queue()[address(store, long)].active)
    state = joined(store, bad)
    assert (state.status, state.error, state.attempt) == ("failed", "ValueError: two lines", 1)
    assert steps(ledger, "long") == list(range(20))


@pytest.mark.parametrize("spare", [pytest.param(100_000, marks=pytest.mark.slow), 0])
def test_a_full_disk_fails_a_job_and_leaves_its_checkpoint(spare: int, store: Store, ledger: Path) -> None:
    """The store on a disk of 4 MB of which a checkpoint takes one; there may be place for a line that says so, or none."""
    store.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", store.root], check=True)
    try:
        job = count("heavy", steps=12, pause=0.3, weight=1_000_000, ledger=str(ledger))
        submitted(store, [job], retries=0)
        worker_of(ledger, "heavy")
        blob = store.root / "blob"
        with contextlib.suppress(OSError), blob.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(blob, max(blob.stat().st_size - spare, 0))
        state = until_stands(store, job, "failed")
        assert "no space left" in state.error.lower()
        until(lambda: not queue()[address(store, job)].active)
        built = steps(ledger, "heavy")
        assert int((store.folder(job.ref) / "checkpoint" / "step").read_text()) == built[-1]  # not the step whose saving failed
        if not spare:
            with pytest.raises(UserError, match="no space left for output folder"):
                submitted(store, [job])
        blob.unlink()
        assert submitted(store, [job]).jobs == 1
        until_stands(store, job, "done")
        assert steps(ledger, "heavy") == [*built, *range(built[-1], 12)]
    finally:
        subprocess.run(["umount", "--lazy", store.root], check=True)


def test_a_time_limit_requeues_a_job_and_counts_as_progress(limited: tuple[Store, JobSpec, Path]) -> None:
    """SLURM looks at limits twice a minute: of one minute, with the signal 45 seconds before, little is left to work."""
    store, job, ledger = limited
    (batch,) = read_batches(store.root)
    until(lambda: store.state(job.ref).status == "done", 100)
    assert steps(ledger, "limited") == list(range(45))
    assert store.state(job.ref).attempt >= 2
    memory = read_json(batch_folder(store.root, batch.name) / "task-0.json")
    assert (memory["failures"], memory["given_up"], set(memory["fruitless"].values())) == ({}, [], {0})
