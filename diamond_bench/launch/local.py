"""Runs jobs on this machine in dependency order, one per device at a time. Other sweeps may work on the same store."""

import contextlib
import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush

from diamond_bench.errors import UserError
from diamond_bench.launch.devices import valid_device, worker_devices
from diamond_bench.launch.events import Event, ignore
from diamond_bench.launch.interrupts import Interrupts, counted_interrupts
from diamond_bench.launch.mps import check_mps, service
from diamond_bench.launch.process import WorkerProcess
from diamond_bench.launch.summary import Summary
from diamond_bench.launch.threads import NO_LIMIT, ThreadLimit
from diamond_bench.store.artifacts import Store
from diamond_bench.store.cost import InputConfigs
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import Kind
from diamond_bench.store.states import JobState

_TICK_SECONDS = 0.2
_POLL_SECONDS = (0.25, 2.0)
"""Interval at which a job of another process is polled: at first, and at most."""
_LEAVE_SECONDS = 20.0
_MAX_FALSE_STARTS = 3


def run_local(
    store: Store,
    specs: Iterable[JobSpec],
    *,
    num_workers: int = 0,
    device: str = "auto",
    on_event: Callable[[Event], None] = ignore,
    retry_failed: bool = True,
    worker_arguments: Sequence[str] = (),
    begin: Callable[[], None] = lambda: None,
    interrupts: Interrupts | None = None,
    mps: bool = False,
    limit: ThreadLimit = NO_LIMIT,
) -> Summary:
    """Runs the jobs of `specs` that are not done, and returns when no more can be run. Each input must be among `specs` or done in the
    store.

    A failing job stops only the jobs that need it. Jobs that another sweep is running are waited for. Jobs that failed earlier are tried
    again unless `retry_failed` is false. On the first SIGINT or SIGTERM the running jobs save and stop; the second kills them.

    `worker_arguments`: further options of the worker (worker.py). `begin` is called once, before the first job is prepared, when a worker
    has found its device or there is nothing to run. `interrupts` replaces SIGINT and SIGTERM by requests that the caller counts. `mps`
    starts CUDA's Multi-Process Service (mps.py) while the workers run. `limit`: a job begins only if it fits next to the
    running ones. Until it does, jobs after it do not begin.

    Raises UserError if the store is not writable, the device is not available, or `mps` would have no effect. Nothing is created then, and
    `begin` is not called.
    """
    valid_device(device)
    sweep = _Sweep(store, {spec.ref: spec for spec in specs}, on_event)
    if mps:
        processes = max((store.kinds[spec.kind].costs.processes(spec.config) for spec in sweep.specs.values()), default=1)
        check_mps(worker_devices(device, num_workers), processes)
    sweep.look(retry_failed)
    if sweep.open:
        devices = worker_devices(device, num_workers, max(store.kinds[ref.kind].costs.gpus(sweep.specs[ref].config) for ref in sweep.open))
        store.require_writable()
        with counted_interrupts() if interrupts is None else contextlib.nullcontext(interrupts) as counted, service(mps):
            _Pool(sweep, devices, worker_arguments, counted, begin, limit).run()
            return sweep.summary(counted.count > 0)
    begin()
    return sweep.summary(stopped=False)


class _Sweep:
    """Tracks which jobs are to be run, which are ready, and how each ended."""

    def __init__(self, store: Store, specs: Mapping[JobRef, JobSpec], on_event: Callable[[Event], None]):
        self.store = store
        self.specs = specs
        self.emit = on_event
        self.open = set(specs)
        """Jobs without an outcome so far."""
        self.held: dict[JobRef, tuple[float, float]] = {}
        """Jobs that another process is running: when to poll again, and the interval after that."""
        self._attempts: dict[JobRef, int] = {}
        """Number of attempts of each job at the first look."""
        self._order = begin_order(specs, store.kinds)
        self._ready: list[tuple[int, JobRef]] = []
        self._offered: set[JobRef] = set()
        """Jobs that have been ready: each is offered once, and returns only by `again`."""
        self._missing = {ref: {need for need in spec.inputs.values() if need in specs} for ref, spec in specs.items()}
        self._dependents: dict[JobRef, list[JobRef]] = {ref: [] for ref in specs}
        for ref, needs in self._missing.items():
            for need in needs:
                self._dependents[need].append(ref)
        self._ended: dict[str, list[JobRef]] = {"done": [], "skipped": [], "interrupted": []}
        self._failed: dict[JobRef, str] = {}
        self._blocked: dict[JobRef, JobRef] = {}

    def look(self, retry_failed: bool) -> None:
        """Takes over from the store which jobs are done, and which failed and are not tried again. The rest becomes ready as its inputs are
        done."""
        states = self.store.states()
        self.store.require_readable(self.specs, states)
        self._attempts = {ref: states[ref].attempt for ref in self.specs if ref in states}
        done = {ref for ref in self.specs if ref in states and states[ref].status == "done" and not self.store.damage(ref)}
        self.emit(Event("planned", done=len(done), total=len(self.specs)))
        self.open -= done
        for ref in self.specs:
            if ref in done:
                self.store.restore_config(self.specs[ref])
                self.skipped(ref)
        for ref, spec in self.specs.items():
            state = states.get(ref)
            if ref not in self.open:  # done, or blocked by one before it
                continue
            if state is not None and state.status == "failed" and not retry_failed:
                self.failed(ref, state.error)
            else:
                foreign = {need for need in spec.inputs.values() if need not in self.specs}
                unmet = next((need for need in foreign if need not in states or states[need].status != "done"), None)
                if unmet is not None:
                    self._block(ref, unmet)
        for ref in self.specs:
            self._offer(ref)

    def next(self, fits: Callable[[JobRef], bool] = lambda ref: True) -> JobRef | None:
        """The first ready job, prepared. None if there is none at the moment, or if it does not fit: later ones do not overtake it."""
        while self._ready:
            ref = self._ready[0][1]
            if ref in self.open and not fits(ref):
                return None
            heappop(self._ready)
            if ref not in self.open:
                continue
            state = self.store.state(ref)
            if state.status == "running":
                self.hold(ref)
            elif not self._ended_elsewhere(ref, state):
                self.store.prepare(self.specs[ref])
                return ref
        return None

    @property
    def num_ready(self) -> int:
        """Number of ready jobs."""
        return len(self._ready)

    def poll(self) -> None:
        """Polls jobs that other processes are running."""
        now = time.monotonic()
        for ref in [ref for ref, (due, _) in self.held.items() if due <= now]:
            state = self.store.state(ref)
            if ref in self.open and state.status == "running":
                wait = self.held[ref][1]
                self.held[ref] = now + wait, min(2 * wait, _POLL_SECONDS[1])
                continue
            del self.held[ref]
            if not self._ended_elsewhere(ref, state):
                self.again(ref)

    def hold(self, ref: JobRef) -> None:
        """Leaves a job to the process that is running it or has just finished it."""
        state = self.store.state(ref)
        if self._ended_elsewhere(ref, state):
            return
        self.held[ref] = time.monotonic() + _POLL_SECONDS[0], 2 * _POLL_SECONDS[0]
        owner = f"pid {state.pid} on {state.host}" if state.pid else "another process"
        self.emit(Event("taken", ref, text=owner))

    def again(self, ref: JobRef) -> None:
        """Makes a job ready again that no process is running."""
        heappush(self._ready, (self._order[ref], ref))

    def done(self, ref: JobRef) -> None:
        self._complete(ref, "done")
        self.emit(Event("done", ref))

    def skipped(self, ref: JobRef) -> None:
        self._complete(ref, "skipped")

    def failed(self, ref: JobRef, error: str) -> None:
        self._failed[ref] = error
        self.emit(Event("failed", ref, text=error))
        self._give_up(ref)

    def interrupted(self, ref: JobRef, text: str) -> None:
        self._ended["interrupted"].append(ref)
        self.emit(Event("interrupted", ref, text=text))
        self._give_up(ref)

    def summary(self, stopped: bool) -> Summary:
        """The outcome."""
        ended = {name: tuple(refs) for name, refs in self._ended.items()}
        return Summary(failed=self._failed, blocked=self._blocked, left=tuple(sorted(self.open)), stopped=stopped, **ended)

    def _ended_elsewhere(self, ref: JobRef, state: JobState) -> bool:
        """Whether a job has an outcome. Records what another sweep has done since the last look: the job is done, or failed again."""
        if ref not in self.open:
            return True
        if state.status == "done" and not self.store.damage(ref):
            self.skipped(ref)
            self.emit(Event("done", ref, text="by another sweep"))
            return True
        if state.status == "failed" and state.attempt > self._attempts.get(ref, 0):
            self.failed(ref, state.error)
            return True
        return False

    def _complete(self, ref: JobRef, how: str) -> None:
        self._ended[how].append(ref)
        self.open.discard(ref)
        for dependent in self._dependents[ref]:
            self._missing[dependent].discard(ref)
            self._offer(dependent)

    def _give_up(self, ref: JobRef) -> None:
        self.open.discard(ref)
        for dependent in self._dependents[ref]:
            if dependent in self.open:
                self._block(dependent, ref)

    def _block(self, ref: JobRef, cause: JobRef) -> None:
        self._blocked[ref] = cause
        self.emit(Event("blocked", ref, text=str(cause)))
        self._give_up(ref)

    def _offer(self, ref: JobRef) -> None:
        if ref in self.open and ref not in self._offered and not self._missing[ref]:
            self._offered.add(ref)
            self.again(ref)


def begin_order(specs: Mapping[JobRef, JobSpec], kinds: Mapping[str, Kind]) -> dict[JobRef, int]:
    """The order in which jobs begin: as planned, but among jobs with the same inputs the longest comes first, so that it does not run alone
    at the end.

    The longest is the one with the most work (`Costs.work`). If such jobs are of several kinds, their work is compared as it is. For kinds
    that compute it is FLOP."""
    first: dict[tuple[object, ...], int] = {}
    for position, spec in enumerate(specs.values()):
        first.setdefault(_group(spec), position)

    def key(ref: JobRef) -> tuple[int, float]:
        return first[_group(specs[ref])], -_work(specs[ref], specs, kinds) if specs[ref].inputs else 0.0

    return {ref: place for place, ref in enumerate(sorted(specs, key=key))}


def _group(spec: JobSpec) -> tuple[object, ...]:
    """Jobs of one group can begin at the same moment."""
    return tuple(spec.inputs.values()) or (spec.kind,)


def _work(spec: JobSpec, specs: Mapping[JobRef, JobSpec], kinds: Mapping[str, Kind]) -> float:
    if not all(need in specs for need in spec.inputs.values()):
        return 0.0
    return kinds[spec.kind].costs.work(spec.config, InputConfigs(spec.inputs, lambda need: specs[need].config))


class _Pool:
    """The workers, at most one per entry of `devices`. They are started when there is work for them."""

    def __init__(
        self,
        sweep: _Sweep,
        devices: Sequence[str],
        arguments: Sequence[str],
        interrupts: Interrupts,
        begin: Callable[[], None],
        limit: ThreadLimit,
    ):
        self._sweep = sweep
        self._limit = limit
        self._devices = devices
        self._arguments = arguments
        self._interrupts = interrupts
        """Requests to stop."""
        self._begin = begin
        self._begun = False
        self._stops_sent = 0
        self._false_starts = 0
        self._events: queue.Queue[tuple[WorkerProcess, Event | None]] = queue.Queue()
        self._slots: list[WorkerProcess | None] = [None] * len(devices)
        self._retired: list[WorkerProcess] = []

    def run(self) -> None:
        """Runs until every job has an outcome, or the sweep was stopped and its workers have exited."""
        try:
            while self._sweep.open and not (self._interrupts.count and not self._busy()):
                if self._interrupts.count > self._stops_sent:
                    self._ask_workers_to_stop()
                if not self._interrupts.count:
                    self._sweep.poll()
                    self._hand_out()
                with contextlib.suppress(queue.Empty):
                    self._handle(*self._events.get(timeout=_TICK_SECONDS))
                for worker in self._workers():
                    worker.reap()
        except BaseException:
            for worker in self._workers():
                worker.kill()
            raise
        finally:
            self._leave()

    def _workers(self) -> list[WorkerProcess]:
        return [worker for worker in self._slots if worker is not None]

    def _busy(self) -> bool:
        return any(worker.job is not None for worker in self._workers())

    def _fits(self, ref: JobRef) -> bool:
        return self._limit.fits(ref, (worker.job for worker in self._workers() if worker.job is not None))

    def _hand_out(self) -> None:
        """Sends jobs to idle workers, and starts workers while more jobs are ready than workers are starting."""
        for worker in self._workers():
            if worker.ready and worker.job is None:
                ref = self._sweep.next(self._fits)
                if ref is None:
                    return
                worker.run(ref)
        starting = sum(not worker.ready for worker in self._workers())
        for slot, device in enumerate(self._devices):
            if self._slots[slot] is None and starting < self._sweep.num_ready:
                self._slots[slot] = WorkerProcess(self._sweep.store.root, device, self._events, self._arguments)
                starting += 1

    def _handle(self, worker: WorkerProcess, event: Event | None) -> None:
        if event is None:
            self._ended(worker)
        elif event.name == "ready":
            worker.ready = True
            if not self._begun:
                self._begun = True
                self._begin()
        elif event.name == "refused":
            raise UserError(event.text)
        elif event.name in ("started", "progress", "said") or event.ref is None:
            self._sweep.emit(event)
        else:
            worker.job = None
            if event.name == "done":
                self._sweep.done(event.ref)
            elif event.name == "interrupted":
                self._sweep.interrupted(event.ref, event.text)
            elif event.name == "taken":
                self._sweep.hold(event.ref)
            else:
                self._sweep.failed(event.ref, event.text)
            if event.name == "crashed":
                self._drop(worker)
                worker.retire()
                self._retired.append(worker)

    def _ended(self, worker: WorkerProcess) -> None:
        """Handles the death of a worker process. Its job, if any, failed; if the sweep was asked to stop, the job was only interrupted."""
        worker.wait(_LEAVE_SECONDS)
        self._drop(worker)
        ref, worker.job = worker.job, None
        if not worker.ready and not self._interrupts.count:
            self._false_starts += 1
            if not worker.killed or self._false_starts >= _MAX_FALSE_STARTS:
                raise UserError(f"a worker process could not start ({worker.death()}):\n{worker.last_output()}")
        if ref is None:
            return
        if self._interrupts.count:
            state = self._sweep.store.state(ref).status  # preempted: see leave.py
            killed = "left within a step, which is lost" if state == "preempted" else "killed before it could save"
            self._sweep.interrupted(ref, killed if worker.killed else worker.death())
            return
        claim = self._sweep.store.claim(ref)
        if claim is not None:
            error = worker.death()
            claim.fail(error)
            self._sweep.failed(ref, error)
        elif self._sweep.store.state(ref).status == "done":
            self._sweep.done(ref)
        else:
            self._sweep.hold(ref)

    def _drop(self, worker: WorkerProcess) -> None:
        self._slots = [None if other is worker else other for other in self._slots]

    def _ask_workers_to_stop(self) -> None:
        self._stops_sent = self._interrupts.count
        running = sum(worker.job is not None for worker in self._workers())
        if self._stops_sent == 1 and running:
            self._sweep.emit(Event("said", text=f"Saving, then stopping (running jobs: {running}). Press Ctrl-C again to kill."))
        for worker in self._workers():
            worker.stop() if self._stops_sent == 1 else worker.kill()

    def _leave(self) -> None:
        for worker in (workers := [*self._workers(), *self._retired]):  # one that is still starting has nothing to save
            worker.kill() if self._interrupts.count and not worker.ready else worker.retire()
        for worker in workers:
            worker.wait(_LEAVE_SECONDS)
