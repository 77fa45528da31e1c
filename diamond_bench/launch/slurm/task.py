"""Runs in an allocation: a small sweep over the task's jobs, one process each. When SLURM asks for it, the jobs save and the task is
requeued.

SLURM sends SIGUSR2 before the time limit, and on preemption if the cluster is configured for it. The jobs save at their next step boundary,
and the task is requeued as often as necessary. On SIGTERM (scancel, or preemption that requeues by itself) the jobs only save. A failed job
is tried again `retries` times, after a pause that doubles each time.
"""

import errno
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from diamond_bench.errors import UserError
from diamond_bench.launch.devices import worker_devices
from diamond_bench.launch.interrupts import Interrupts
from diamond_bench.launch.local import run_local
from diamond_bench.launch.mps import shared
from diamond_bench.launch.progress import LineDisplay, SweepProgress
from diamond_bench.launch.slurm.client import SlurmError, requeue, slurm
from diamond_bench.launch.summary import Summary
from diamond_bench.launch.worker import load_kinds
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch, batch_folder, read_batch
from diamond_bench.store.files import DamagedFile, read_json, write_json
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.shapes import TASK, fit

_LONGEST_PAUSE_SECONDS = 600.0
_MAX_FRUITLESS = 2
"""A job is given up after this many time limits in a row without progress beyond the step where it resumed."""
_REQUEUE_TRIES = 8
_EARLY_SECONDS = 30.0
_END_SECONDS = 120.0
"""Time limit for SLURM to end a task that it has requeued."""


@dataclass(frozen=True)
class TaskMemory:
    """State that a task keeps across requeues."""

    failures: Mapping[str, int] = field(default_factory=dict)
    """Number of failures of each job in this task."""
    begun_at: Mapping[str, int] = field(default_factory=dict)
    """Step at which each job last resumed."""
    fruitless: Mapping[str, int] = field(default_factory=dict)
    """Number of time limits in a row since each job last resumed at a later step."""
    given_up: tuple[str, ...] = ()
    """Jobs that the task has given up; its other jobs continue."""
    not_before: float = 0.0
    """When the jobs may be tried again."""


class _Signals(Interrupts):
    """Counts SIGUSR2 and SIGTERM as one request to stop: SLURM itself kills processes that do not end in time."""

    def __init__(self) -> None:
        self.requeue = False
        self.asked = False
        self.ended = False
        """Whether SLURM asked the process to end (SIGTERM)."""
        signal.signal(signal.SIGUSR2, self._on_signal)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)

    @property
    def count(self) -> int:  # type: ignore[override]
        return int(self.asked)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requeue |= number == signal.SIGUSR2 and not self.asked
        self.ended |= number == signal.SIGTERM
        self.asked = True


class TaskFailed(Exception):
    """Some of the task's jobs are not done. The exit code tells SLURM not to start jobs that depend on them."""


def run_task(root: str, name: str, jobs: Sequence[str]) -> None:
    """Runs the jobs (`kind/id`) of a task of the batch `name`, whose configs are in the store `root`. Called by submitit on the node.

    Returns when all are done. Raises TaskFailed if some are not done and this task will not finish them. Does not return if the task was
    requeued.
    """
    try:
        _run_task(root, name, jobs)
    except (OSError, UserError) as error:
        if not _disk_is_full(error):
            raise
        print(f"no space left on the disk of {root}: {error}", flush=True)
        sys.exit(errno.ENOSPC)  # the store cannot record it, so SLURM's exit code informs `status`


def _disk_is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or str(error).startswith("no space left")


def _run_task(root: str, name: str, jobs: Sequence[str]) -> None:
    signals = _Signals()
    began = time.time()
    try:
        batch = read_batch(Path(root), name)
    except FileNotFoundError:
        raise UserError(
            f"{platform.node()} does not see {batch_folder(Path(root), name)}: output_dir must be shared with the nodes"
        ) from None
    refs = [JobRef.parse(job) for job in jobs]
    store = Store(root, kinds=load_kinds(batch.kinds))
    memory_file = batch_folder(store.root, name) / f"task-{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}.json"
    memory = _remembered(memory_file)
    _pause(memory.not_before, signals)
    todo = [ref for ref in refs if str(ref) not in memory.given_up]
    try:
        summary = _run(store, batch, todo, signals)
    except UserError as error:
        if _disk_is_full(error):
            raise
        # no worker could start, as on a node with a broken GPU
        summary = Summary((), (), dict.fromkeys(todo, " ".join(str(error).split())), {}, (), (), stopped=False)
    at_limit = signals.requeue and _at_limit(batch, began)
    memory = _learned(memory, batch, store, summary, at_limit)
    write_json(memory_file, asdict(memory))
    unfinished = [ref for ref in (*summary.failed, *summary.interrupted, *summary.left) if str(ref) not in memory.given_up]
    if unfinished and _may_go_on(signals, summary.stopped):
        failed = {ref: summary.failed[ref] for ref in unfinished if ref in summary.failed}
        _requeue_task("; ".join(f"{ref} failed ({error})" for ref, error in failed.items()) or "saved", signals)
    reasons = [f"{ref} was stopped; what it had done is saved" for ref in unfinished]
    reasons += [f"{ref}: {store.state(JobRef.parse(ref)).error}" for ref in memory.given_up]
    reasons += [f"{ref}: {need}, which it needs, is not done" for ref, need in summary.blocked.items()]
    if reasons:
        raise TaskFailed("; ".join(reasons))


def _run(store: Store, batch: Batch, refs: Sequence[JobRef], signals: _Signals) -> Summary:
    arguments = ["--kinds", batch.kinds]
    scratch = os.path.expandvars(batch.scratch or "")
    if "$" in scratch:
        print(f"cluster.scratch={batch.scratch} is not set on this node: datasets are read from the store", flush=True)
    elif scratch:
        arguments += ["--scratch", scratch]
    specs = [store.spec(ref) for ref in refs]
    print(f"{platform.node()}: {', '.join(map(str, refs))}, CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}", flush=True)
    mps = batch.mps and shared(worker_devices(batch.device, len(refs)))  # the last task of an array may have one job
    run = partial(run_local, store, specs, num_workers=len(refs), device=batch.device, mps=mps)
    with LineDisplay(SweepProgress({}), sys.stdout) as display:
        return run(on_event=display, worker_arguments=arguments, interrupts=signals)


def _remembered(file: Path) -> TaskMemory:
    try:
        content = read_json(file)
        fit(content, TASK, file)
        return TaskMemory(**{**content, "given_up": tuple(content["given_up"])})
    except (FileNotFoundError, DamagedFile, TypeError):
        return TaskMemory()


def _learned(memory: TaskMemory, batch: Batch, store: Store, summary: Summary, at_limit: bool) -> TaskMemory:
    """The task's state after an attempt. Jobs that it gives up for lack of progress are recorded as failed."""
    failures, begun_at, fruitless = dict(memory.failures), dict(memory.begun_at), dict(memory.fruitless)
    given_up = list(memory.given_up)
    for ref in summary.failed:
        failures[str(ref)] = failures.get(str(ref), 0) + 1
        if failures[str(ref)] > batch.retries:
            given_up.append(str(ref))
            _fail(store, ref, summary.failed[ref])
    for ref in summary.interrupted:
        begun, before = store.state(ref).begun_at, begun_at.get(str(ref))
        fruitless[str(ref)] = fruitless.get(str(ref), 0) + 1 if at_limit and before is not None and begun <= before else 0
        begun_at[str(ref)] = begun
        if fruitless[str(ref)] >= _MAX_FRUITLESS:
            given_up.append(str(ref))
            _fail(
                store,
                ref,
                f"time limit without progress: in {batch.minutes} minutes it did not come to a point it can resume from, "
                f"{_MAX_FRUITLESS} times in a row; raise cluster.time",
            )
    again = [failures[str(ref)] for ref in summary.failed if str(ref) not in given_up]
    wait = min(_LONGEST_PAUSE_SECONDS, batch.retry_seconds * 2 ** (max(again) - 1)) if again else 0.0
    return TaskMemory(failures, begun_at, fruitless, tuple(given_up), time.time() + wait if wait else 0.0)


def _fail(store: Store, ref: JobRef, error: str) -> None:
    """Records a job as failed if its own process has not."""
    if store.state(ref).status != "failed" and (claim := store.claim(ref)) is not None:
        claim.fail(error)


def _may_go_on(signals: _Signals, stopped: bool) -> bool:
    """Whether the task should be requeued; False if it was cancelled."""
    if not signals.ended:
        return signals.requeue or not stopped
    try:  # SIGTERM: in the grace time before preemption the task still counts as running; at its limit, or cancelled, it does not
        state, _, reason = slurm("squeue", "--noheader", "--jobs", _address(), "--format", "%T|%r").strip().partition("|")
    except SlurmError:
        return False
    return state == "RUNNING" or (signals.requeue and reason == "TimeLimit")


def _address() -> str:
    """SLURM's id of this task."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _at_limit(batch: Batch, began: float) -> bool:
    """Whether the task is stopped by its time limit rather than by preemption, whose time SLURM records.

    SLURM checks time limits every 30 seconds, and therefore sends its signal up to 30 seconds early.
    """
    if time.time() - began < batch.minutes * 60 - batch.signal_seconds - _EARLY_SECONDS:
        return False
    try:
        shown = dict(re.findall(r"\b(StartTime|PreemptTime)=(\d\S*)", slurm("scontrol", "--oneliner", "show", "job", _address())))
    except SlurmError:
        return True
    return bool(shown.get("PreemptTime", "") < shown.get("StartTime", "0"))  # a requeue from before the start belongs to an earlier run


def _pause(until: float, signals: _Signals) -> None:
    """Waits for the part of the pause after a failure that SLURM's own delay leaves."""
    while time.time() < until and not signals.asked:
        time.sleep(0.5)


def _requeue_task(reason: str, signals: _Signals) -> None:
    """Requeues this task and waits for SLURM to end it. Raises TaskFailed if SLURM does not."""
    address = _address()
    print(f"{reason}: requeued as {address}", flush=True)
    for attempt in range(_REQUEUE_TRIES):
        try:
            requeue(address)
            break
        except SlurmError as error:
            print(error, flush=True)
            if attempt + 1 == _REQUEUE_TRIES or not error.transient:
                raise TaskFailed(f"{reason}, but SLURM did not requeue it ({error}); the same sweep submits it again") from None
            time.sleep(min(60.0, 2.0**attempt))
    end = time.monotonic() + _END_SECONDS
    while time.monotonic() < end:
        if signals.ended:  # it is in the queue again, and SLURM waits for this process to end
            sys.exit(1)
        time.sleep(0.1)
    raise TaskFailed(f"{reason}, but SLURM did not end the requeued task; the same sweep submits it again")
