"""The states of jobs, from the store and from SLURM: the store records what a job has done, and SLURM what will happen to it."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace

from diamond_bench.launch.slurm.client import NEVER, NOT_LAUNCHED, WAITING, QueueEntry, accounted, entry_of, queue, submitted_batches
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch, batch_folder, newest, read_batches
from diamond_bench.store.files import DamagedFile, read_json
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.shapes import TASK, fit
from diamond_bench.store.states import JobState, Status

OPEN = ("pending", "running", "requeued")
"""Joined states that change without any user action."""
_ENDS: dict[str, tuple[Status, str]] = {
    "CANCELLED": ("cancelled", "cancelled in SLURM"),
    "TIMEOUT": ("failed", "time limit: killed before it had saved; raise cluster.time or cluster.signal_seconds"),
    "DEADLINE": ("failed", "time limit: killed at the deadline"),
    "OUT_OF_MEMORY": ("failed", "out of memory: raise cluster.memory"),
    "NODE_FAIL": ("failed", "node failure"),
    "BOOT_FAIL": ("failed", "node failure: the node did not start"),
    "PREEMPTED": ("preempted", "preempted, and not requeued by SLURM"),
}
_DISK_FULL = f"{errno.ENOSPC}:0"
"""Exit code of a task on a full disk."""
_CANNOT_WRITE = ":53"
"""End of the exit code of a task whose output SLURM could not open."""


@dataclass(frozen=True)
class QueueStatus:
    """The states of a store's jobs, and the SLURM tasks that they belong to."""

    states: Mapping[JobRef, JobState]
    tasks: Mapping[JobRef, str]
    """SLURM's id of the latest task with the job."""


def queue_status(store: Store) -> QueueStatus:
    """The states of all jobs, joined with SLURM's if any were submitted. Raises SlurmError if SLURM does not answer."""
    states = store.states()
    batches = read_batches(store.root)
    if all(_done(states, ref) for batch in batches for task in batch.tasks for ref in task):
        return QueueStatus(states, {ref: batch.address(element) for ref, (batch, element) in newest(batches).items()})
    entries = queue()
    given = newest(submitted_batches(store.root, entries))
    tasks = {ref: batch.address(element) for ref, (batch, element) in given.items()}
    unknown = {
        str(batch.array) for ref, (batch, element) in given.items() if not _done(states, ref) and entry_of(entries, batch, element) is None
    }
    known = {entry.comment for entry in entries.values()}
    entries = accounted(unknown) | entries
    joined = dict(states)
    for ref, (batch, element) in given.items():
        state, entry = states.get(ref, JobState("missing")), entry_of(entries, batch, element)
        if entry is None and not state.attempt and batch.comment in known:
            entry = QueueEntry("CANCELLED")  # for a single element that was cancelled before it began, SLURM keeps nothing
        joined[ref] = _joined(store, ref, state, batch, element, entry)
    return QueueStatus(joined, tasks)


def _done(states: Mapping[JobRef, JobState], ref: JobRef) -> bool:
    return ref in states and states[ref].status == "done"


def _joined(store: Store, ref: JobRef, state: JobState, batch: Batch, element: int, entry: QueueEntry | None) -> JobState:
    if state.status in ("done", "damaged"):
        return state
    if entry is not None and entry.active:
        given_up = state.status == "failed" and len(batch.tasks[element]) > 1 and _last_try(store, ref, batch, element)
        return state if given_up else _in_queue(state, entry)
    if state.status in ("running", "failed"):
        return state
    if element in batch.cancelled:
        return replace(state, status="cancelled", text="by diamond-bench cancel")
    log = str(batch_folder(store.root, batch.name) / f"{batch.address(element)}_0_log.out")
    if entry is None:
        lost = "SLURM knows nothing of its task" if state.status in ("missing", "pending") else state.text
        return replace(state, status="lost" if state.status != "preempted" else "preempted", text=lost)
    if entry.reason == NEVER:
        return replace(state, status="cancelled", text="a job it needs failed or was cancelled")
    if entry.state in _ENDS:
        status, why = _ENDS[entry.state]
        if status == "failed":
            return replace(state, status=status, error=why, log=state.log or log)
        needs = store.spec(ref).inputs.values()
        if entry.state == "CANCELLED" and any(store.state(need).status != "done" for need in needs):
            why = "a job it needs failed or was cancelled"
        return replace(state, status=status, text=why)
    if entry.exit_code == _DISK_FULL:
        full = f"no space left on the disk of {store.root}: free some (diamond-bench gc); what was saved before is kept"
        return replace(state, status="failed", error=full, log=log)
    if entry.state == "FAILED" or state.status in ("missing", "pending"):
        where = "SLURM could not write its log: output_dir must be shared with the nodes" if entry.exit_code.endswith(_CANNOT_WRITE) else ""
        return replace(state, status="failed", error=where or f"its task ended as {entry.state}, exit code {entry.exit_code}", log=log)
    return state


def _last_try(store: Store, ref: JobRef, batch: Batch, element: int) -> bool:
    """Whether a packed job that has just failed will not be tried again although its neighbours are still running."""
    file = batch_folder(store.root, batch.name) / f"task-{element}.json"
    try:
        content = read_json(file)
        fit(content, TASK, file)
        failures = content["failures"]
    except (FileNotFoundError, DamagedFile):
        failures = {}
    return int(failures.get(str(ref), 0)) + 1 > batch.retries


def _in_queue(state: JobState, entry: QueueEntry) -> JobState:
    if entry.state not in WAITING:
        if state.status in ("missing", "pending"):
            return replace(state, status="running", text=f"{entry.state.lower()} on {entry.nodes}")
        if state.status in ("failed", "preempted", "lost"):  # its task is about to continue it, or to end
            last = f"; last: {state.error}" if state.error else ""
            return replace(state, status="requeued", text=f"its task is {entry.state.lower()} on {entry.nodes}{last}", error="")
        return state
    begun = entry.restarts or state.attempt
    reason = "held by SLURM: a node failed to launch it; the same sweep releases it" if entry.reason == NOT_LAUNCHED else entry.reason
    why = f"{reason}; last: {state.error}" if state.error else reason
    return replace(state, status="requeued" if begun else "pending", text=why, error="")
