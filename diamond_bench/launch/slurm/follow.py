"""Follows submitted jobs: waits for them, cancels them, and finds their output."""

import io
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from diamond_bench.errors import UserError
from diamond_bench.launch.slurm.client import SlurmError, cancel, entry_of, queue, submitted_batches
from diamond_bench.launch.slurm.queue_status import OPEN, queue_status
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch, batch_folder, newest, note_cancelled, read_batches
from diamond_bench.store.files import IS_A_LINK, require_folders
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.states import JobState

_LOOK_SECONDS = 10.0
_READ_SECONDS = 0.5
_MAX_SHOWN = 8 * 2**20
_PART = 2**16


def wait(
    store: Store, refs: Collection[JobRef], show: Callable[[Mapping[JobRef, JobState]], None], every: float = _LOOK_SECONDS
) -> Mapping[JobRef, JobState]:
    """Polls SLURM until none of the jobs waits or runs, and returns their states. If SLURM does not answer, polling continues."""
    while True:
        try:
            found = queue_status(store)
        except SlurmError as error:
            if not error.transient:
                raise
        else:
            states = {ref: found.states.get(ref, JobState("missing")) for ref in refs}
            show(states)
            if not any(state.status in OPEN and (state.status != "pending" or ref in found.tasks) for ref, state in states.items()):
                return states
        time.sleep(every)


@dataclass(frozen=True)
class Cancelled:
    """The result of `cancel_jobs`."""

    jobs: tuple[JobRef, ...]
    shared: tuple[JobRef, ...]
    """Jobs that were not cancelled because their task also has a job that must not be cancelled."""


def cancel_jobs(store: Store, refs: Collection[JobRef]) -> Cancelled:
    """Cancels the SLURM tasks of jobs, waiting or running, if all jobs of the task are among `refs`. Running jobs save first."""
    entries = queue()
    tasks: dict[tuple[str, int], list[JobRef]] = defaultdict(list)
    batches: dict[str, Batch] = {}
    for ref, (batch, element) in newest(submitted_batches(store.root, entries)).items():
        entry = entry_of(entries, batch, element)
        if entry is not None and entry.active:
            tasks[batch.name, element].append(ref)
            batches[batch.name] = batch
    chosen = set(refs)
    wanted = {task: jobs for task, jobs in tasks.items() if not chosen.isdisjoint(jobs)}
    whole = {task: jobs for task, jobs in wanted.items() if chosen.issuperset(jobs)}
    by_batch: dict[str, list[int]] = defaultdict(list)
    for name, element in whole:
        by_batch[name].append(element)
    cancel(batches[name].address(element) for name, element in whole)
    for name, elements in by_batch.items():
        note_cancelled(store.root, batches[name], elements)
    shared = (ref for task, jobs in wanted.items() if task not in whole for ref in jobs if ref in chosen)
    return Cancelled(tuple(ref for jobs in whole.values() for ref in jobs), tuple(shared))


def logs(store: Store, ref: JobRef) -> list[Path]:
    """The existing files with a job's output: its own log, and what its last SLURM task printed around it.

    Raises UserError if one of them is a symbolic link.
    """
    files = [store.folder(ref) / "log.txt"]
    given = newest(read_batches(store.root)).get(ref)
    if given is not None:
        batch, element = given
        files.append(batch_folder(store.root, batch.name) / f"{batch.address(element)}_0_log.out")
    for file in files:
        require_folders(store.root, file.parent)
        if file.is_symlink():
            raise UserError(f"{file}: {IS_A_LINK}")
    return [file for file in files if file.is_file()]


def printed(file: Path, say: Callable[[str], None]) -> Iterator[str]:
    """The text of a log in parts, limited to its last _MAX_SHOWN bytes. `say` reports how many bytes are left out."""
    with file.open("rb") as log:
        left = log.seek(0, os.SEEK_END) - _MAX_SHOWN
        log.seek(max(0, left))
        if left > 0:
            say(f"its first {left:,} bytes are left out; read them in the file")
        yield from io.TextIOWrapper(log, errors="replace")


def follow(store: Store, ref: JobRef, file: Path) -> Iterator[str]:
    """Yields the content of a log and then all additions, until the job neither waits nor runs."""
    asked = -math.inf
    with file.open(errors="replace") as lines:
        while True:
            yield from iter(lambda: lines.readline(_PART), "")
            now = time.monotonic()
            if store.state(ref).status != "running" and now - asked >= _LOOK_SECONDS:
                asked = now
                if queue_status(store).states[ref].status not in OPEN:
                    yield from iter(lambda: lines.readline(_PART), "")
                    return
            time.sleep(_READ_SECONDS)


def counted(states: Iterable[JobState]) -> str:
    """The number of jobs in each state, in words."""
    return ", ".join(f"{number} {status}" for status, number in sorted(Counter(state.status for state in states).items()))
