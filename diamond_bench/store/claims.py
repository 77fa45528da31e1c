"""A claimed job: the only object through which its state and result are written."""

import contextlib
import os
import platform
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from diamond_bench.store.evaluated import now
from diamond_bench.store.files import TEMPORARY, DamagedFile, encodable, sealed, sha256, write_json
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.locks import ClaimLost, Lock
from diamond_bench.store.states import read_job_state, result_stamp

KEPT_FRAMES = ("frames.npy", "one_step.npy", "samples.npy", "forks.npy", "altered.npy")
"""Imagined frames that an evaluation keeps on request, by kind of play. Their checksums are in its facts (`kept_frames`)."""
REMOVABLE = ("checkpoint", *KEPT_FRAMES)
"""Parts of a finished artifact that may be removed: the checkpoint for resuming it, and imagined frames kept on request."""
_OURS = ("config.yaml", "state.json", "result.json", "log.txt")
_STATE_EVERY_SECONDS = 2.0


class Claim:
    """The right to run one job, from `Store.claim`. Use it as a context, or end it by finish, fail or release.

    Every write first checks that the job was not taken over, and raises ClaimLost if it was.
    """

    def __init__(self, lock: Lock, folder: Path, ref: JobRef):
        self.folder = folder
        self.ref = ref
        self._lock = lock
        self._settled = False
        self._written = 0.0
        self._earlier = _seconds(folder)
        began = time.time()
        self._state: dict[str, Any] = {
            "status": "running",
            "attempt": lock.number,
            "host": platform.node(),
            "pid": os.getpid(),
            "started": began,
            "since_time": began,
        }
        try:
            self._write()
        except BaseException:
            lock.release()
            raise

    @property
    def attempt(self) -> int:
        """1 for the first attempt at a job, then one more for each further attempt."""
        return self._lock.number

    @property
    def lost(self) -> bool:
        """Whether the heartbeat found that the job was taken over. If so, stop and publish nothing."""
        return self._lock.lost

    @property
    def seconds(self) -> float:
        """Seconds spent on the job until now, over all attempts."""
        return self._earlier + time.time() - float(self._state["started"])

    def check(self) -> None:
        """Raises ClaimLost if another process has taken over the job. Call it before anything is published."""
        self._lock.check()

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Shows progress in state.json, at most every two seconds. Cheap enough to call at every step."""
        moment = time.time()
        if "done" not in self._state:
            self._state.update(since_done=done, since_time=moment)
        self._state.update(done=done, total=total, text=text)
        if moment - self._written >= _STATE_EVERY_SECONDS and not self.lost:
            with contextlib.suppress(OSError):  # only for display: a full disk is reported where data must be kept
                self._write()

    def finish(self, result: Mapping[str, Any], keep_checkpoint: bool = True) -> None:
        """Publishes the result (`rows`, `info`, `recorded`, all plain data), which makes the job done.

        result.json is written last. It also contains the present time as `recorded.finished`, the size and SHA-256 of every file of the
        job, except those that may be removed later (REMOVABLE), and a checksum of its own content. Without `keep_checkpoint`, checkpoint/
        is deleted once the job is done.
        """
        recorded = {**result.get("recorded", {}), "finished": now()}
        content = sealed({"id": self.ref.id, "kind": self.ref.kind, **result, "recorded": recorded, "files": _manifest(self.folder)})
        self.check()
        write_json(self.folder / "result.json", content)
        if not keep_checkpoint:
            shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)  # the job is done, so `gc` removes what cannot be removed now
        with contextlib.suppress(OSError):  # the job is done, so the next claim corrects the state
            self._settle("done", **result_stamp(self.folder))

    def fail(self, error: str) -> None:
        """Records the job as failed; `error` is one line."""
        self._settle("failed", error=error)

    def release(self) -> None:
        """Stops and saves the job. The next claim resumes it from its checkpoint."""
        self._settle("preempted")

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._settled:
            return
        if isinstance(error, ClaimLost):
            self._lock.release()
        elif isinstance(error, Exception):
            self.fail(last_line(error))
        else:
            self.release()

    def _settle(self, status: str, **facts: Any) -> None:
        self._settled = True
        self._state.update(status=status, **facts)
        try:
            self._write(durable=True)
        finally:
            self._lock.release()

    def _write(self, durable: bool = False) -> None:
        self._written = time.time()
        self._state.update(updated=self._written, seconds=self.seconds)
        self.check()
        content = {key: encodable(value) if isinstance(value, str) else value for key, value in self._state.items()}
        write_json(self.folder / "state.json", content, durable)


def last_line(error: BaseException) -> str:
    """An exception in one line, like the end of its traceback."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _seconds(folder: Path) -> float:
    """Seconds of earlier attempts, as far as a readable state contains them."""
    try:
        return float(read_job_state(folder).get("seconds", 0.0))
    except (FileNotFoundError, DamagedFile):
        return 0.0


def _manifest(folder: Path) -> dict[str, list[Any]]:
    """[bytes, SHA-256] of each file of the artifact, by its path below the folder."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        ours = path.parent == folder and (path.name in _OURS or path.name.startswith("claim-"))
        mode = path.lstat().st_mode
        if ours or name.parts[0] in REMOVABLE or path.name.endswith(TEMPORARY) or not stat.S_ISREG(mode):
            continue
        files[name.as_posix()] = [path.stat().st_size, sha256(path)]
    return files
