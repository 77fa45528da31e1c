"""Submits the missing jobs of a plan as arrays. Each array is recorded in the store before and after SLURM accepts it."""

import contextlib
import fcntl
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from diamond_bench.config import SlurmCluster
from diamond_bench.errors import UserError
from diamond_bench.launch.resources import resources
from diamond_bench.launch.slurm.client import (
    NOT_LAUNCHED,
    QueueEntry,
    SlurmError,
    array_limit,
    cancel,
    entry_of,
    partitions,
    profile_alone,
    queue,
    release,
    require_slurm,
    slurm,
    submitted_batches,
)
from diamond_bench.launch.slurm.nodes import check_nodes
from diamond_bench.launch.slurm.request import check_limits, check_partition, check_profile, check_root, executor, limit_of, sbatch_file
from diamond_bench.launch.slurm.task import run_task
from diamond_bench.launch.slurm.waves import Array, Condition, arrays
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import FOLDER, Batch, batch_folder, new_name, newest, write_batch
from diamond_bench.store.jobspec import JobRef, JobSpec

_PAUSES = (2.0, 5.0, 15.0, 30.0)
"""Seconds before each retry of a submission for which SLURM was too busy."""
_PER_ARRAY = re.compile(r"#SBATCH --(array|comment|dependency|job-name|output|error)\b")
"""Lines that differ between arrays with the same resource requests."""


@dataclass(frozen=True)
class Order:
    """The jobs to run, and the cluster to run them on."""

    specs: Mapping[JobRef, JobSpec]
    """In dependency order, as a plan lists its jobs."""
    cluster: SlurmCluster
    study: str
    variants: Mapping[JobRef, tuple[str, ...]] = field(default_factory=dict)
    """Part of the arrays' names."""
    device: str = "auto"
    only: Callable[[JobRef], bool] = lambda ref: True
    """Selects among the missing jobs."""
    kinds: str = "diamond_bench.store.kinds:KINDS"


@dataclass(frozen=True)
class Request:
    """One array to submit."""

    batch: Batch
    array: Array


@dataclass(frozen=True)
class Requests:
    """The submissions that an order needs, given the states of the store and of SLURM."""

    requests: tuple[Request, ...]
    done: int
    in_flight: int
    """Jobs that are already in SLURM's queue, or that another process runs."""
    left: int
    """Jobs left for a later submission: they need a job that runs outside SLURM or was not selected."""

    @property
    def jobs(self) -> int:
        """Number of jobs that would be submitted."""
        return sum(len(task) for request in self.requests for task in request.batch.tasks)


def requested(store: Store, order: Order) -> Requests:
    """Everything that `submit` would submit: jobs that are not done, not in SLURM's queue, and not running. Creates nothing.

    Raises UserError if SLURM is not available or the profile is invalid.
    """
    require_slurm()
    check_profile(order.cluster)
    check_root(store.root)
    specs, states = order.specs, store.states()
    store.require_readable(specs, states)
    done = {ref for ref in specs if ref in states and states[ref].status == "done" and not store.damage(ref)}
    in_flight = {ref: address for ref, address in jobs_in_flight(store.root, queue()).items() if ref not in done}
    elsewhere = {*in_flight, *(ref for ref in specs if ref in states and states[ref].status == "running")} - done
    todo: dict[JobRef, None] = {}
    left = 0
    for ref, spec in specs.items():
        if ref in done or ref in elsewhere or not order.only(ref):
            continue
        needs = [need for need in spec.inputs.values() if need not in done and need not in in_flight and need not in todo]
        if any(need in specs or need not in states or states[need].status != "done" for need in needs):
            left += 1  # a job that it needs runs outside of SLURM, or was not selected: SLURM cannot wait for it
        else:
            todo[ref] = None
    check_limits(order.cluster, specs, todo, store, states)
    limit = array_limit() if todo else 1
    most = min(limit, order.cluster.largest or limit)
    planned = arrays(specs, list(todo), in_flight, lambda kind: resources(order.cluster, kind).packed or 1, most)
    requests = tuple(Request(_batch(order, array), array) for array in planned)
    return Requests(requests, len(done), len(elsewhere & set(specs)), left)


def submit(store: Store, order: Order, say: Callable[[str], None] = print, begin: Callable[[], None] = lambda: None) -> Requests:
    """Submits the missing jobs of an order and returns immediately. `begin` is called before the first job is prepared.

    If SLURM refuses an array midway, those submitted before stay recorded, and the same call submits the rest later. Raises UserError if
    SLURM is not available, or if it refuses the profile's request; nothing has been created or submitted then.
    """
    store.require_writable()
    check_order(store, order, say)
    with _alone(store.root):
        _release(store.root, order, say)
        wanted = requested(store, order)  # again: another command may have been faster
        begin()
        for ref in (ref for request in wanted.requests for task in request.batch.tasks for ref in task):
            store.prepare(order.specs[ref])
        sent: list[Batch] = []
        for request in wanted.requests:
            dependency = _dependency(request.array, sent)
            try:
                sent.append(_send(store.root, request.batch, order.cluster, dependency))
            except UserError as error:
                got = f"{len(sent)} of {len(wanted.requests)} arrays were submitted and are recorded; the same command submits the rest"
                raise UserError(f"{error}; {got}" if sent else str(error)) from None
            if len(sent) == 1:
                _check_comment(sent[0])
            waits = f", after {dependency}" if dependency else ""
            say(f"{sent[-1].array}: {request.batch.label}, {len(request.batch.tasks)} tasks{waits}")
    return wanted


def _check_comment(batch: Batch) -> None:
    """Cancels the array and raises UserError if the site changes comments, which identify tasks."""
    entries = queue()
    if batch.address(0) in entries and entry_of(entries, batch, 0) is None:
        cancel([str(batch.array)])
        raise UserError(
            "this cluster changes the comments of jobs (--comment), by which diamond-bench knows its tasks: it cannot be used so"
        )


def check_order(store: Store, order: Order, say: Callable[[str], None] = print) -> None:
    """Raises UserError if SLURM would refuse an order's request or could never run it. Creates and submits nothing.

    Calls `say` with anything that could not be checked.
    """
    _test(store.root, order, requested(store, order).requests, say)


def sbatch_files(store: Store, order: Order, requests: Sequence[Request]) -> Iterator[tuple[str, str]]:
    """(name, sbatch file) of each array. ARRAY0, ARRAY1, ... stand for ids that SLURM will assign."""
    pretended = [replace(request.batch, array=f"ARRAY{number}") for number, request in enumerate(requests)]
    for request in requests:
        slurm_executor = executor(
            order.cluster, request.batch, batch_folder(store.root, request.batch.name), _dependency(request.array, pretended)
        )
        yield request.batch.label, sbatch_file(slurm_executor, len(request.batch.tasks))


def jobs_in_flight(root: Path, entries: Mapping[str, QueueEntry]) -> dict[JobRef, str]:
    """Jobs that wait or run in SLURM, by the id of their task."""
    given = newest(submitted_batches(root, entries))
    kept = {ref: at for ref, at in given.items() if at[1] not in at[0].cancelled}  # a cancelled one may still be saving
    found = {ref: entry_of(entries, batch, element) for ref, (batch, element) in kept.items()}
    return {ref: given[ref][0].address(given[ref][1]) for ref, entry in found.items() if entry is not None and entry.active}


def _release(root: Path, order: Order, say: Callable[[str], None]) -> None:
    """Releases tasks of the order that SLURM holds because a node failed to launch them. Tasks that a person holds stay held."""
    entries = queue()
    given = (at for ref, at in newest(submitted_batches(root, entries)).items() if ref in order.specs)
    found = {batch.address(element): entry_of(entries, batch, element) for batch, element in given}
    held = [address for address, entry in found.items() if entry is not None and entry.active and entry.reason == NOT_LAUNCHED]
    if held:
        release(held)
        say(f"released {len(held)} tasks that SLURM held because a node had failed to launch them")


def _batch(order: Order, array: Array) -> Batch:
    return Batch(
        name=new_name(),
        label=_label(order, array),
        study=order.study,
        kind=array.kind,
        tasks=array.tasks,
        minutes=limit_of(order.cluster, array.kind),
        signal_seconds=order.cluster.signal_seconds,
        retries=order.cluster.retries,
        retry_seconds=order.cluster.retry_seconds,
        device=order.device,
        scratch=order.cluster.scratch,
        mps=order.cluster.mps,
        kinds=order.kinds,
    )


def _label(order: Order, array: Array) -> str:
    """Study, kind, and the variant or the number of variants, as squeue shows it."""
    named = {variant for task in array.tasks for ref in task for variant in order.variants.get(ref, ())}
    variant = [next(iter(named)).replace(", ", ",")] if len(named) == 1 else [f"{len(named)}-variants"] if named else []
    return re.sub(r"[^\w.,=+/-]", "_", "/".join([order.study, array.kind, *variant]))


def _send(root: Path, batch: Batch, cluster: SlurmCluster, dependency: str | None) -> Batch:
    """Submits one array and returns its record with SLURM's id. A record without an id remains if this process dies in between."""
    write_batch(root, batch)
    payloads = [(str(root), batch.name, [str(ref) for ref in task]) for task in batch.tasks]
    slurm_executor = executor(cluster, batch, batch_folder(root, batch.name), dependency)
    for pause in (*_PAUSES, None):
        try:
            with profile_alone():
                tasks = slurm_executor.map_array(run_task, *zip(*payloads, strict=True))
            break
        except Exception as error:  # submitit's own exceptions, of several classes
            refusal = SlurmError("sbatch", str(error))
            if refusal.transient:  # it may have been accepted all the same, before its payloads are in place
                _end_unknown(batch)
            if not refusal.transient or pause is None:
                raise refusal from None
            time.sleep(pause)
    sent = replace(batch, array=tasks[0].job_id.partition("_")[0])
    try:
        write_batch(root, sent)
    except UserError:  # it would run without a record
        cancel([str(sent.array)])
        raise
    return sent


def _end_unknown(batch: Batch) -> None:
    """Cancels whatever SLURM may have accepted of an array whose submission was not answered. Raises SlurmError if SLURM does not answer at
    all."""
    for pause in (*_PAUSES, None):
        try:
            found = {address.partition("_")[0] for address, entry in queue().items() if entry.comment == batch.comment and entry.active}
            cancel(found)
            return
        except SlurmError as error:
            if not error.transient or pause is None:
                raise
            time.sleep(pause)


def _test(root: Path, order: Order, requests: Sequence[Request], say: Callable[[str], None]) -> None:
    """Raises UserError if SLURM would refuse an array or could never run it. Asks once per kind of request."""
    limits = partitions()
    kinds = list(dict.fromkeys(request.batch.kind for request in requests))
    for kind in kinds:
        check_partition(order.cluster, kind, limits)
    if kinds:
        check_nodes(order.cluster, kinds, say)
    asked: dict[tuple[str, ...], None] = {}
    for request in requests:
        text = sbatch_file(executor(order.cluster, request.batch, batch_folder(root, request.batch.name), None), 1)
        asked[tuple(line for line in text.splitlines() if line.startswith("#SBATCH") and not _PER_ARRAY.match(line))] = None
    for lines in asked:
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file, profile_alone():
            file.write("\n".join(["#!/bin/bash", *lines, "true", ""]))
            file.flush()
            try:
                slurm("sbatch", "--test-only", file.name)
            except SlurmError as error:
                if "node configuration is not available" not in str(error):
                    # SLURM gives the same answer for an impossible request and if no node is up at the moment; a real submission
                    # distinguishes them
                    raise
                cancel(
                    [
                        slurm("sbatch", "--begin=now+1hour", "--job-name=diamond-bench-trial", "--parsable", file.name)
                        .strip()
                        .partition(";")[0]
                    ]
                )


def _dependency(array: Array, submitted: Sequence[Batch]) -> str | None:
    def address(condition: Condition) -> str:
        return condition if isinstance(condition, str) else submitted[condition[0]].address(condition[1])

    parts = [f"aftercorr:{submitted[array.aligned].array}"] if array.aligned is not None else []
    parts += ["afterok:" + ":".join(address(condition) for condition in array.after)] if array.after else []
    return ",".join(parts) or None


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Allows one submission at a time: two would submit the same jobs."""
    path = root / FOLDER / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another command is submitting jobs of {root} now; try again when it is done") from None
        except OSError:  # a file system without locks: claims still prevent a job from being done twice
            pass
        yield
