"""The process that runs the jobs of one device, one after the other: `python -P -m diamond_bench.launch.worker`.

Its parent writes JSON lines to its stdin, {"job": "kind/id"} or {"stop": true}, and reads events (events.py) from its stdout. When stdin
ends, the parent has no more jobs or has died: the worker stops its job at the next step boundary and exits. SIGINT, SIGTERM and SIGUSR2
request the same. `-P` prevents modules of the working folder from being imported in place of the package's own.
"""

import argparse
import contextlib
import gc
import importlib
import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from diamond_bench.errors import UserError
from diamond_bench.launch.attempt import run_job
from diamond_bench.launch.devices import resolve_device
from diamond_bench.launch.events import Event
from diamond_bench.launch.leave import Leave
from diamond_bench.launch.memory import give_back_memory, keep_memory
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import Kind

_PATIENCE_SECONDS = 2.0
"""Time that a job has to reach the end of its step after it was asked to stop."""


def main() -> None:
    """Runs jobs until stdin ends."""
    parser = argparse.ArgumentParser(prog="diamond_bench.launch.worker", description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--kinds", default="diamond_bench.store.kinds:KINDS", help="module:table of the kinds of jobs")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds for the job to save after the parent's death")
    parser.add_argument("--sleep-idle-threads", action="store_true", help="do not let idle threads of OpenMP spin: cores are shared")
    parser.add_argument("--scratch", type=Path, help="a folder of this machine to copy datasets to before they are read")
    arguments = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the threads of numpy and scipy must not depend on the free cores either; read at import
    if arguments.sleep_idle_threads:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    orders, events = _take_streams()
    worker = _Worker(events, arguments.grace)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, worker.on_signal)
    threading.Thread(target=worker.listen, args=(orders,), name="orders", daemon=True).start()
    try:
        device = resolve_device(arguments.device)
    except UserError as error:
        worker.send(Event("refused", text=str(error)))
        return
    store = Store(arguments.store, say=lambda text: worker.send(Event("said", text=text)), kinds=load_kinds(arguments.kinds))
    worker.send(Event("ready", text=device))
    worker.serve(store, device, arguments.scratch)


def _end() -> None:
    """Ends this process and the children of a job that did not reach a step boundary."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def load_kinds(name: str) -> Mapping[str, Kind]:
    """Loads the table of job kinds that is named "module:table"."""
    module, _, table = name.partition(":")
    kinds: Mapping[str, Kind] = getattr(importlib.import_module(module), table)
    return kinds


class _Worker:
    def __init__(self, events: int, grace: float):
        self._events = events
        self._grace = grace
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._jobs: queue.SimpleQueue[JobRef | None] = queue.SimpleQueue()
        self._leave = Leave()

    def serve(self, store: Store, device: str, scratch: Path | None) -> None:
        keeps = device == "cpu" and keep_memory()
        while (ref := self._jobs.get()) is not None and not self._stop.is_set():
            gc.freeze()  # what is here now stays, so the collection of garbage after each job need not look at it
            try:
                end = run_job(store, ref, device, on_event=self.send, should_stop=self._stop.is_set, scratch=scratch, leave=self._leave)
            except UserError as error:
                end = Event("failed", ref, text=str(error))
            if keeps:
                give_back_memory()
            self.send(end)

    def send(self, event: Event) -> None:
        rest = memoryview(event.line())
        with self._sending, contextlib.suppress(BrokenPipeError):  # the parent is dead: `listen` notices it too, and stops the job
            while rest:
                rest = rest[os.write(self._events, rest) :]

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self._ask_to_stop()

    def listen(self, orders: int) -> None:
        with open(orders, "rb", buffering=0) as lines:  # unbuffered: a buffer's lock would hang the interpreter's exit
            for line in lines:
                order = json.loads(line)
                if "job" in order:
                    self._jobs.put(JobRef.parse(order["job"]))
                else:
                    self._ask_to_stop()
                    threading.Thread(target=self._abandon, name="abandon", daemon=True).start()
        self._ask_to_stop()
        time.sleep(self._grace)
        _end()

    def _abandon(self) -> None:
        """Ends the process in the middle of a step that takes too long, as soon as nothing but this step is lost."""
        time.sleep(_PATIENCE_SECONDS)
        while not self._leave.now():
            time.sleep(0.2)
        _end()

    def _ask_to_stop(self) -> None:
        self._stop.set()
        self._jobs.put(None)  # also from a signal handler: SimpleQueue.put may interrupt its own get


def _take_streams() -> tuple[int, int]:
    """Private copies of stdin and stdout, so that what a job reads or prints cannot disturb the protocol."""
    orders, events = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log can be read while it grows
    return orders, events


if __name__ == "__main__":
    main()
