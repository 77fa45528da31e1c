"""A worker process, seen from its parent. The parent starts it, sends it jobs, receives its events, and ends it with all its children."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from diamond_bench.launch.events import Event
from diamond_bench.store.jobspec import JobRef


class WorkerProcess:
    """Runs `python -P -m diamond_bench.launch.worker` in its own session, so that Ctrl-C in a terminal reaches the parent alone.

    Its events are put into `events` as (worker, event). When its stdout has ended, (worker, None) follows; after a death, `reap` ensures
    that stdout ends.
    """

    def __init__(self, store: Path, device: str, events: "queue.Queue[tuple[WorkerProcess, Event | None]]", arguments: Sequence[str] = ()):
        self.device = device
        self.ready = False
        self.job: JobRef | None = None
        """The job that it is running, or None."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        command = [sys.executable, "-P", "-m", "diamond_bench.launch.worker", "--store", str(store), "--device", device, *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, start_new_session=True
        )
        threading.Thread(target=self._listen, args=(events,), name=f"events of {self._process.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, ref: JobRef) -> None:
        """Sends it a job."""
        self.job = ref
        self._order({"job": str(ref)})

    def stop(self) -> None:
        """Asks it to save its job at the next step boundary and to exit."""
        self._order({"stop": True})

    def retire(self) -> None:
        """Lets it exit after its current job."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def kill(self) -> None:
        """Kills it and its children immediately."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self) -> None:
        """If it has died, ends the children that it left, so that its stdout ends too."""
        if self._process.returncode is None and os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self.kill()  # while the zombie keeps its process group's number from being used again
            self._process.wait()

    def wait(self, seconds: float) -> None:
        """Waits for it to exit, and kills it after `seconds`."""
        end = time.monotonic() + seconds
        while self._process.returncode is None:
            if time.monotonic() > end:
                self.kill()
            self.reap()
            time.sleep(0.02)

    @property
    def killed(self) -> bool:
        """Whether it was ended by a signal."""
        return self._process.wait() < 0

    def death(self) -> str:
        """Describes how the process ended."""
        code = self._process.wait()
        if code < 0:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"killed by signal {-code}{hint}"
        return f"the worker process ended with exit code {code}"

    def last_output(self) -> str:
        """The last lines that it wrote outside any job's log."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-20:])

    def _order(self, order: dict[str, object]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it is dead, or retired: its end is reported elsewhere
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self, events: "queue.Queue[tuple[WorkerProcess, Event | None]]") -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            events.put((self, Event.parse(line)))
        events.put((self, None))
