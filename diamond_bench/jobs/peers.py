"""The further processes of a training (`execution.num_processes`), as its first process sees them. `peer` is the code that they run."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import IO

import torch
from torch import Tensor

from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.execution import Execution
from diamond_bench.jobs.hosts import hosts, on_host, too_few_gpus
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.training.processes import REFUSED, Processes, have_come, meeting_point
from diamond_bench.typed import to_plain

_PEER = (sys.executable, "-P", "-m", "diamond_bench.jobs.peer")
_SECONDS_TO_END = 20.0
_SECONDS_TO_NOTICE = 10.0


class Peers:
    """Started processes, and the group that this process leads."""

    def __init__(self, started: Sequence[subprocess.Popen[str]], processes: Processes) -> None:
        self.processes = processes
        self._started = started
        self.ending = False
        """Whether it is in order that they end."""
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def begin(self, execution: Execution, generator: Tensor, updates: Sequence[int], state: Sequence[Tensor]) -> None:
        """Lets them build the same training: its execution, the state of its generator, the updates done of each network, all tensors.
        Raises UserError if one of them has no units for this execution's precision."""
        for process in self._started:
            _send(process, {"execution": asdict(execution), "generator": generator.tolist(), "updates": list(updates)})
        with self._together():
            self.processes.copy_from_first(state)

    @contextlib.contextmanager
    def updating(self, number: int) -> Iterator[None]:
        """They compute their shares of an update of a network while the caller learns. Raises RuntimeError if one of them has ended."""
        with self._together():
            self.processes.order(number)
            yield

    def end(self) -> None:
        """Lets them end in order."""
        self.ending = True
        with self._together():
            self.processes.order(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in self._started:
                process.wait(_SECONDS_TO_END)

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo reports the lost connection a little before the process has ended
            self.ending = True
            time.sleep(1.0)
            if lost := _lost(self._started):
                raise lost from error
            raise

    def _watch(self) -> None:
        """Ends this process if another one ends and the group does not notice: NCCL waits for it. The job is resumed like a killed one."""
        while not self.ending and _lost(self._started) is None:
            time.sleep(1.0)
        time.sleep(_SECONDS_TO_NOTICE)
        if not self.ending:
            print(_lost(self._started), flush=True)
            os._exit(1)


def _lost(started: Sequence[subprocess.Popen[str]]) -> RuntimeError | UserError | None:
    for rank, process in enumerate(started, start=1):
        code = process.poll()
        if code == REFUSED:
            return UserError(f"process {rank} of the training cannot take part; the job's log names its node and the reason")
        if code is not None:
            return RuntimeError(f"process {rank} of the training ended (exit code {code}); a resume begins at the last checkpoint")
    return None


@contextlib.contextmanager
def peers_of(config: TrainWorldModel, context: JobContext) -> Iterator[Peers | None]:
    """The further processes of a training, one per further GPU or on the CPU. None if it has one process. They end with this one.

    In a SLURM job of several nodes, each node gets as many processes, and srun starts those of other nodes. Raises UserError if there are
    fewer GPUs than processes, or if the nodes cannot share the processes equally.
    """
    size = config.execution.num_processes
    if size == 1:
        yield None
        return
    device, nodes = torch.device(context.device), hosts()
    each, rest = divmod(size, len(nodes))
    if rest:
        raise UserError(f"execution.num_processes={size}: the {len(nodes)} nodes of this SLURM job cannot share them equally")
    devices = [context.device] * each if device.type == "cpu" else _gpus(size, device.index or 0, each)
    places = [("" if node == nodes[0] else node, own) for node in nodes for own in devices]
    store, host = meeting_point(size), "127.0.0.1" if len(nodes) == 1 else socket.gethostname()
    started: list[subprocess.Popen[str]] = []
    peers: Peers | None = None
    try:
        for rank, (node, own) in enumerate(places[1:], start=1):
            process = subprocess.Popen(on_host(node, _PEER), stdin=subprocess.PIPE, text=True)
            started.append(process)
            described = {"config": to_plain(config), "dataset": str(context.inputs["dataset"]), "device": own}
            _send(process, {"rank": rank, "size": size, "host": host, "port": store.port, **described})
        while not have_come(store, size):
            if lost := _lost(started):
                raise lost
            time.sleep(0.05)
        peers = Peers(started, Processes(0, size, store, device))
        yield peers
        peers.end()
    finally:
        if peers is not None:
            peers.ending = True
        for process in started:
            _input(process).close()  # ends those that still wait for an update
        for process in started:
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        if peers is not None:
            peers.processes.close()


def _gpus(size: int, first: int, each: int) -> list[str]:
    """The GPUs of the processes of a node, which has `each` of the `size` processes."""
    there = torch.cuda.device_count()
    if first + each > there:
        raise too_few_gpus(size, there, first)
    return [f"cuda:{first + rank}" for rank in range(each)]


def _input(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin


def _send(process: subprocess.Popen[str], message: dict[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has ended: the group reports it
        _input(process).write(json.dumps(message) + "\n")
        _input(process).flush()
