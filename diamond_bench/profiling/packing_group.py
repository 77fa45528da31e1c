"""Processes that share a device, as the job that measures them sees them: started, set to work at one moment, timed, ended."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from diamond_bench.errors import UserError
from diamond_bench.profiling.packing_member import Member

_POLL_SECONDS = 0.2
_HEAD_START_SECONDS = 0.1
"""From the order to the common start: for the order to be read by all."""
_LEAVE_SECONDS = 20.0
_WORDS = 6
"""Lines of what a dead process printed that are repeated."""
_MODULE = "diamond_bench.profiling.packing_member"


class Group:
    """Processes that build their networks and wait; a context at whose end none of them is left, however it ends.

    `tick` is called several times a second while they are waited for, and may raise to end it. Every method raises UserError, with what
    the process printed, where one has died.
    """

    def __init__(self, members: Sequence[Member], tick: Callable[[], object], module: str = _MODULE) -> None:
        self._tick = tick
        self._heard: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._processes = [_Process(number, member, self._heard, module) for number, member in enumerate(members)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.retire()
        end = time.monotonic() + (_LEAVE_SECONDS if error is None else 2.0)
        for process in self._processes:
            process.leave(end)

    def ready(self) -> Sequence[str]:
        """Waits until all are; the name of the GPU of each, empty on the CPU."""
        return [str(answer["device_name"]) for answer in self._answers(range(len(self._processes)))]

    def work(self, cycles: int, who: Sequence[int] | None = None) -> Sequence[float]:
        """Cycles a second of each of `who` (by default all), which begin at one moment and are all busy until the last has done `cycles`;
        the others wait."""
        who = range(len(self._processes)) if who is None else who
        start = time.monotonic() + _HEAD_START_SECONDS
        for number in who:
            self._processes[number].order(start=start, cycles=cycles)
        rates = [cycles / answer["seconds"] for answer in self._answers(who)]
        for number in who:
            self._processes[number].order(enough=True)
        self._bytes = {number: int(answer["bytes"]) for number, answer in zip(who, self._answers(who), strict=True)}
        return rates

    @property
    def bytes(self) -> int:
        """What those that worked last held at most, added up."""
        return sum(self._bytes.values())

    def _answers(self, who: Sequence[int]) -> list[Any]:
        found: dict[int, Any] = {}
        while len(found) < len(who):
            self._tick()
            with contextlib.suppress(queue.Empty):
                number, answer = self._heard.get(timeout=_POLL_SECONDS)
                if answer is None:
                    raise UserError(self._death(number))
                found[number] = answer
        return [found[number] for number in who]

    def _death(self, number: int) -> str:
        how, words = self._processes[number].death(), self._processes[number].printed()
        print(f"--- process {number + 1} of {len(self._processes)} {how}; it printed:\n{words}", flush=True)
        last = " | ".join(line.strip() for line in words.splitlines()[-_WORDS:])
        return f"process {number + 1} of {len(self._processes)} that shared the device {how}; it printed: {last or 'nothing'}"


class _Process:
    def __init__(self, number: int, member: Member, heard: "queue.SimpleQueue[tuple[int, Any]]", module: str) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "OMP_NUM_THREADS": str(member.threads), "MKL_NUM_THREADS": str(member.threads)},
        )  # in our process group: who kills that, ends these too
        threading.Thread(target=self._listen, args=(number, heard), name=f"answers of {self._process.pid}", daemon=True).start()
        self._write(member.line())

    def order(self, **values: object) -> None:
        self._write(json.dumps(values))

    def retire(self) -> None:
        """Lets it leave after the piece of work that it is doing."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def leave(self, until: float) -> None:
        """Waits for its end, which comes at `until` at the latest."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def death(self) -> str:
        """How it ended, in words; its stdout has ended."""
        code = self._process.wait(_LEAVE_SECONDS)
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by signal {-code}{' (out of memory?)' if code == -9 else ''}"

    def printed(self) -> str:
        """All that it wrote besides its answers."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: heard elsewhere
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self, number: int, heard: "queue.SimpleQueue[tuple[int, Any]]") -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            heard.put((number, json.loads(line)))
        heard.put((number, None))


def threads_each(threads: int, processes: int) -> int:
    """CPU threads of each of several processes that share `threads`: what is left, at least one."""
    return max(1, threads // processes)
