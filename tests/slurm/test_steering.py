"""What is submitted to a real SLURM, how it is said to stand, what ends it, and what is refused before anything has happened."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import Cluster
from fake_jobs import add, count
from stores import make_store
from test_tasks import PIECE, address, joined, ordered, printed, steps, submitted, until, until_stands, worker_of

from diamond_bench.errors import UserError
from diamond_bench.launch.slurm.client import NEVER, QueueEntry, queue
from diamond_bench.launch.slurm.follow import cancel_jobs, follow, logs
from diamond_bench.launch.slurm.queue_status import _joined, queue_status
from diamond_bench.launch.slurm.submit import requested, sbatch_files, submit
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import batch_folder, new_name, read_batches, write_batch
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.states import JobState

HELD = {"extra": ("hold",)}


def release(cluster: Cluster, store: Store, spec: JobSpec) -> None:
    cluster.run("scontrol", "release", address(store, spec))


# How jobs are said to stand


def entry(state: str, reason: str = "None", exit_code: str = "0:0", restarts: int = 0) -> QueueEntry:
    return QueueEntry(state, reason, "node1", restarts, exit_code)


@pytest.mark.parametrize(
    ("known", "found", "status", "reported"),
    [
        (JobState("pending"), entry("PENDING", "Priority"), "pending", "Priority"),
        (JobState("pending"), entry("RUNNING"), "running", "running on node1"),
        (JobState("running", 3, 9), entry("RUNNING"), "running", ""),
        (JobState("preempted", attempt=1), entry("PENDING", "BeginTime", restarts=1), "requeued", "BeginTime"),
        (JobState("failed", error="old", attempt=1), entry("PENDING", "BeginTime", restarts=1), "requeued", "BeginTime; last: old"),
        (JobState("preempted", attempt=1), entry("COMPLETING"), "requeued", "completing"),
        (JobState("failed", error="old", attempt=1), entry("RUNNING"), "requeued", "last: old"),
        (JobState("done"), entry("RUNNING"), "done", ""),
        (JobState("damaged", error="cut"), entry("FAILED"), "damaged", "cut"),
        (JobState("lost", 3, 9), entry("OUT_OF_MEMORY"), "failed", "out of memory"),
        (JobState("lost", 3, 9), entry("NODE_FAIL"), "failed", "node failure"),
        (JobState("lost", 3, 9), entry("BOOT_FAIL"), "failed", "node failure"),
        (JobState("lost", 3, 9), entry("TIMEOUT"), "failed", "time limit"),
        (JobState("preempted", 3, 9), entry("CANCELLED"), "cancelled", "cancelled in SLURM"),
        (JobState("preempted", 3, 9), entry("PREEMPTED"), "preempted", "not requeued"),
        (JobState("pending"), entry("CANCELLED", NEVER), "cancelled", "a job it needs"),
        (JobState("pending"), entry("PENDING", NEVER), "cancelled", "a job it needs"),
        (JobState("pending"), entry("FAILED", "JobLaunchFailure", "15:53"), "failed", "could not write its log"),
        (JobState("pending"), entry("FAILED", exit_code="66:0"), "failed", "its task ended as FAILED, exit code 66:0"),
        (JobState("failed", error="ValueError: two"), entry("FAILED"), "failed", "ValueError: two"),
        (JobState("pending"), None, "lost", "SLURM knows nothing"),
        (JobState("lost", 3, 9, "counting"), None, "lost", "counting"),
        (JobState("preempted", 3, 9, "counting"), None, "preempted", "counting"),
        (JobState("running", 3, 9, "counting"), None, "running", "counting"),  # its heart beats: whatever SLURM has forgotten
    ],
)
def test_the_store_s_state_and_slurm_s_are_one(
    known: JobState, found: QueueEntry | None, status: str, reported: str, tmp_path: Path
) -> None:
    store, spec = make_store(tmp_path), count("job")
    store.prepare(spec)
    batch = replace(PIECE, tasks=((spec.ref,),), array="7")
    state = _joined(store, spec.ref, known, batch, 0, found)
    assert state.status == status
    assert reported in f"{state.text} {state.error}"
    assert (state.done, state.total) == (known.done, known.total)
    if status == "failed" and known.status != "failed":
        assert state.log.endswith("slurm/piece/7_0_log.out")


def test_every_state_on_the_way_is_reported(cluster: Cluster, store: Store) -> None:
    shown, held, crowded = count("shown", steps=20, pause=0.3), count("held"), count("crowded")
    after = add("after", shown.ref)
    submitted(store, [shown, after], gpus=2)
    submitted(store, [held], **HELD)
    submitted(store, [crowded], gpus=2)
    running = until_stands(store, shown, "running")
    until(lambda: joined(store, shown).done >= 2)
    running = joined(store, shown)
    assert (running.total, running.text, running.attempt) == (20, "counting shown", 1)
    assert running.host
    waiting = {spec.config.name: joined(store, spec) for spec in (after, held, crowded)}
    assert {name: state.status for name, state in waiting.items()} == dict.fromkeys(waiting, "pending")
    assert waiting["after"].text == "Dependency"
    assert waiting["held"].text == "JobHeldUser"
    assert waiting["crowded"].text in ("Resources", "Priority")
    release(cluster, store, held)
    until_stands(store, held, "done")


def test_the_store_answers_for_tasks_that_slurm_has_forgotten(tmp_path: Path, store: Store) -> None:
    forgotten, other = count("forgotten"), count("other")
    for spec in (forgotten, other):
        store.prepare(spec)
    write_batch(store.root, replace(PIECE, name=new_name(), tasks=((forgotten.ref,),), array="999999"))
    assert joined(store, forgotten).status == "lost"
    assert joined(store, other).status == "pending"
    assert submitted(store, [forgotten]).jobs == 1
    until_stands(store, forgotten, "done")


# What is submitted


def test_what_is_in_the_queue_or_runs_or_is_done_is_not_submitted_again(store: Store, ledger: Path) -> None:
    first = count("first", steps=8, pause=0.3, ledger=str(ledger))
    assert submitted(store, [first]).jobs == 1
    again = submitted(store, [first])
    assert (again.jobs, again.in_flight) == (0, 1)
    second = add("second", first.ref, ledger=str(ledger))
    more = submitted(store, [first, second])
    assert (more.jobs, more.in_flight) == (1, 1)
    (request,) = more.requests
    assert request.array.after == (address(store, first),)
    until_stands(store, second, "done")
    assert store.result(second.ref).rows[0]["value"] == 11
    assert (steps(ledger, "first"), steps(ledger, "second")) == (list(range(8)), [0, 1, 2])
    assert submitted(store, [first, second]).done == 2


def test_a_job_that_runs_outside_of_slurm_is_left_to_its_owner(store: Store) -> None:
    here, after, apart = count("here"), add("after", count("here").ref), count("apart")
    store.prepare(here)
    claim = store.claim(here.ref)
    assert claim is not None
    with claim:
        sent = submitted(store, [here, after, apart])
        assert [ref for request in sent.requests for task in request.batch.tasks for ref in task] == [apart.ref]
        assert joined(store, here).status == "running"
    assert submitted(store, [here, after]).jobs == 2
    until_stands(store, after, "done")


def test_of_what_is_missing_only_the_chosen_is_submitted(store: Store) -> None:
    """As `retry` does; what needs a job that is neither chosen nor in the queue is left for later."""
    first, apart, never = count("first"), count("apart"), count("never")
    after = add("after", first.ref)
    order = replace(ordered([first, after, apart, never], **HELD), only=lambda ref: ref in (after.ref, apart.ref))
    sent = submit(store, order, lambda text: None)
    assert (sent.jobs, sent.left) == (1, 1)
    assert joined(store, apart).status == "pending"
    assert {spec.ref for spec in (first, after, never)}.isdisjoint(queue_status(store).tasks)


def test_the_rest_of_a_dead_submission_is_submitted_again(cluster: Cluster, store: Store) -> None:
    """Its record has no id yet; or the id is by now that of somebody else's job."""
    first, second = count("first"), count("second")
    foreign = cluster.run("sbatch", "--parsable", "--mem=50M", "--output=/dev/null", "--wrap=sleep 60")
    write_batch(store.root, replace(PIECE, name=new_name(), tasks=((first.ref,),)))
    write_batch(store.root, replace(PIECE, name=new_name(), tasks=((second.ref,),), array=foreign))
    assert queue_status(store).states[second.ref].status == "lost"
    assert submitted(store, [first, second]).jobs == 2
    assert cancel_jobs(store, {first.ref, second.ref}).jobs
    assert cluster.states()[foreign] in ("PENDING", "RUNNING")


def test_the_dry_run_shows_the_files_that_are_submitted(store: Store) -> None:
    def plain(text: str) -> list[str]:
        return [re.sub(r"2\d{7}-\d{6}-\d+-[0-9a-f]{4}", "BATCH", line) for line in text.splitlines() if line.strip()]

    left = [count(f"left{i}") for i in range(3)]
    right = [add(f"right{i}", spec.ref) for i, spec in enumerate(left)]
    order = ordered([*left, *right], memory="70M", gpus=1, parallelism=2, setup=("export A=1",), **HELD)
    shown = dict(sbatch_files(store, order, requested(store, order).requests))
    assert not store.root.exists()
    assert list(shown) == ["fake/count", "fake/add"]
    for option in ("--array=0-2%2", "--mem=70M", "--gpus-per-node=1", "--requeue", "--hold", "--time=20", "--signal=USR2@10"):
        assert f"#SBATCH {option}" in shown["fake/count"].splitlines()
    assert "#SBATCH --dependency=aftercorr:ARRAY0" in shown["fake/add"].splitlines()
    submit(store, order, lambda text: None)
    batches = {batch.label: batch for batch in read_batches(store.root)}
    for label, text in shown.items():
        batch = batches[label]
        file = batch_folder(store.root, batch.name) / f"{batch.array}_submission.sh"
        assert plain(file.read_text()) == plain(text.replace("ARRAY0", str(batches["fake/count"].array)))


# Ending it, and looking at it


def test_cancel_ends_what_was_chosen_and_says_so(store: Store, ledger: Path) -> None:
    long = [count(f"long{i}", steps=30, pause=0.3, ledger=str(ledger)) for i in range(2)]
    pair = [count(f"pair{i}", steps=5, pause=0.2) for i in range(2)]
    after = add("after", long[0].ref)
    submitted(store, [*long, after])
    submitted(store, pair, packed=2)
    worker_of(ledger, "long0")
    ended = cancel_jobs(store, {long[0].ref, after.ref, pair[0].ref})
    assert set(ended.jobs) == {long[0].ref, after.ref}
    assert ended.shared == (pair[0].ref,)
    state = until_stands(store, long[0], "cancelled")
    assert (state.text, state.done) == ("by diamond-bench cancel", len(steps(ledger, "long0")))
    until_stands(store, after, "cancelled")
    assert joined(store, long[1]).status == "running"
    until_stands(store, pair[0], "done")
    assert cancel_jobs(store, {long[0].ref}).jobs == ()


def test_elements_cancelled_before_they_began_are_cancelled(cluster: Cluster, store: Store) -> None:
    held = [count(f"held{i}") for i in range(3)]
    submitted(store, held, **HELD)
    array = read_batches(store.root)[0].array
    cluster.run("scancel", f"{array}_1")
    assert [joined(store, spec).status for spec in held] == ["pending", "cancelled", "pending"]
    cluster.run("scancel", str(array))
    assert [joined(store, spec).status for spec in held] == ["cancelled"] * 3
    assert submitted(store, held, **HELD).jobs == 3


def test_a_job_s_log_and_its_task_s_are_found_and_followed(store: Store) -> None:
    job = count("job", steps=6, pause=0.3)
    submitted(store, [job], gpus=1)
    until(lambda: len(logs(store, job.ref)) == 2)
    own, task = logs(store, job.ref)
    text = "".join(follow(store, job.ref, own))
    assert store.state(job.ref).status == "done"  # it ends with the job, not before
    assert text == own.read_text()
    assert "job counted" in text
    assert "a child printed this" in text
    assert f"{job.ref}, CUDA_VISIBLE_DEVICES=" in task.read_text()
    assert printed(store, job) == task.read_text()


# Bad input: one message, nothing created, nothing submitted


def test_no_slurm_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    store = make_store(tmp_path)
    with pytest.raises(UserError, match="there is no sbatch on the PATH"):
        submitted(store, [count("job")])
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"partition": "shrt"}, ["cluster.partition=shrt", "short"]),
        ({"partition": "short", "time": "0:11:00"}, ["cluster.time=0:11:00", "partition short allows 10:00"]),
        ({"cpus": 9000}, ["cluster.cpus=9000", "at most 8 CPUs"]),
        ({"constraint": "a100"}, ["SLURM refused (sbatch)", "feature"]),
        ({"gpus": 3}, ["cluster.gpus=3", "gpu:2"]),
        ({"memory": "much"}, ["SLURM refused (sbatch)", "mem"]),
        ({"time": "1", "signal_seconds": 60}, ["cluster.time=1", "cluster.signal_seconds"]),
        ({"extra": ("array=0-5",)}, ["cluster.extra: 'array=0-5'", "diamond-bench sets it itself"]),
        ({"extra": ("--signal=USR1@5",)}, ["cluster.extra", "signal", "diamond-bench sets it itself"]),
        ({"extra": ("Mail Type",)}, ["cluster.extra: 'Mail Type'", "mail-type=FAIL"]),
        ({"extra": ("no-such-option=1",)}, ["SLURM refused (sbatch)", "no-such-option"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_happens(
    profile: dict[str, object], words: list[str], cluster: Cluster, store: Store
) -> None:
    with pytest.raises(UserError) as refusal:
        submitted(store, [count("job")], **profile)
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)
    assert not store.root.exists()
    assert not cluster.run("squeue", "--noheader")


# What goes wrong later


def test_a_node_that_does_not_see_the_store_says_so(cluster: Cluster, store: Store) -> None:
    """The store's folder is away while the one task begins; from the other's, the record alone."""
    blind, half = count("blind"), count("half")
    submitted(store, [blind], **HELD)
    submitted(store, [half], **HELD)
    tasks = {spec.config.name: address(store, spec) for spec in (blind, half)}
    record = batch_folder(store.root, read_batches(store.root)[1].name) / "batch.json"
    away = store.root.with_name("away")
    kept = record.read_text()
    record.unlink()
    cluster.run("scontrol", "release", tasks["half"])
    until(lambda: not queue()[tasks["half"]].active)
    record.write_text(kept)
    store.root.rename(away)
    cluster.run("scontrol", "release", tasks["blind"])
    until(lambda: not queue()[tasks["blind"]].active)
    away.rename(store.root)
    assert "SLURM could not write its log: output_dir must be shared" in joined(store, blind).error
    state = joined(store, half)
    assert (state.status, state.error) == ("failed", "its task ended as FAILED, exit code 66:0")
    assert f"does not see {record.parent}: output_dir must lie on a file system shared with the nodes" in Path(state.log).read_text()


def test_a_refusal_midway_keeps_what_was_submitted(cluster: Cluster, store: Store) -> None:
    left = [count(f"left{i}") for i in range(2)]
    right = [add(f"right{i}", spec.ref) for i, spec in enumerate(left)]
    order = ordered([*left, *right])

    def close(text: str) -> None:
        cluster.run("scontrol", "update", "PartitionName=main", "State=INACTIVE")

    try:
        with pytest.raises(UserError, match=r"1 of 2 arrays were submitted and are recorded; the same command submits the rest"):
            submit(store, order, close)
    finally:
        cluster.run("scontrol", "update", "PartitionName=main", "State=UP")
    rest = submitted(store, [*left, *right])
    assert (rest.jobs, rest.in_flight + rest.done) == (2, 2)
    for spec in right:
        until_stands(store, spec, "done")


def test_a_job_of_another_version_is_refused_by_the_node(store: Store) -> None:
    job = count("job")
    order = replace(ordered([job], retries=0), kinds="fake_jobs:LATER")
    submit(store, order, lambda text: None)
    state = until_stands(store, job, "failed")
    assert "was prepared for revision 1 of count, and this diamond-bench has revision 2" in state.error
    assert not (store.folder(job.ref) / "checkpoint").exists()
