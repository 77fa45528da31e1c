"""The process of an engine that a library starts: it writes into a folder of its own, and it does not outlive this process."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

_CLONE_FS = 0x200
"""Linux: threads share their working folder. A thread that no longer shares it can change its own."""
_GUARD = 'read -r _ || kill -9 "$2"; rm -rf "$1" /dev/shm/*"$3"'
"""A shell waits for a line. If the pipe ends without one, this process was killed, and nobody else would end the engine, which waits for
commands for ever. It also removes the engine's folder and its shared memory, whose names end in the engine's identifier."""


class EngineProcess:
    """An engine with a folder for its files. `start` starts it, and `end` cleans up after the library has closed it."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self, start: Callable[[], object], identifier: bytes) -> None:
        """Calls `start` in the engine's folder. Its command line must contain the folder, and `identifier` before its identifier.

        The working folder of this process does not change: only one thread, which then ends, leaves it. Raises what `start` raises, and
        RuntimeError if no process with this folder appears.
        """
        failed = list[BaseException]()

        def run() -> None:
            try:
                if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_FS) != 0:
                    raise OSError(ctypes.get_errno(), "unshare")
                os.chdir(self.folder)
                start()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        pid, words = self._process()
        name = words[words.index(identifier) + 1]
        command = ["/bin/sh", "-c", _GUARD, "sh", str(self.folder), str(pid), os.fsdecode(name)]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)

    def end(self) -> None:
        """Removes the folder. The engine must be closed."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.communicate(b"\n")
        shutil.rmtree(self.folder, ignore_errors=True)  # one that was never started has no guard

    def _process(self) -> tuple[int, list[bytes]]:
        """The engine's process and its command line."""
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    words = (process / "cmdline").read_bytes().split(b"\0")
                except OSError:  # it ended meanwhile
                    continue
                if any(os.fsencode(self.folder) in word for word in words):
                    return int(process.name), words
        raise RuntimeError(f"{self.folder}: no process has it as its folder")
