"""Checkpoints for resuming a training: written whole or not at all, verified when read. The previous one is kept."""

import hashlib
import io
import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map

from diamond_bench.store.files import TEMPORARY, DamagedFile, read_bytes, write_atomic

MAX_BYTES = 64 * 2**30
"""Maximum size of a checkpoint in bytes."""
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")


def arithmetic_name(device_type: str, compile: str) -> str:
    """A name of the arithmetic of a checkpoint's training, for comparison and for messages."""
    return device_type if compile == "none" else f"{device_type} with compile={compile}"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Writes the state of a training after `step` updates. Its digest is part of the file's name. Deletes older checkpoints beyond
    `keep`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    for stray in folder.glob(f".*{TEMPORARY}"):  # left by a killed attempt
        stray.unlink(missing_ok=True)
    write_atomic(path, content)
    for old in _checkpoints(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


class CheckpointWriter:
    """Calls `save_checkpoint` in a thread. A save returns once the state is copied, and the training continues during the write.

    One checkpoint is written at a time, in order. The next `save`, or the end of the context, raises an error of the write.
    """

    def __init__(self, folder: Path, check_owner: Callable[[], None] = lambda: None) -> None:
        """`check_owner` raises if another process owns the folder. It is called before a file appears in the folder."""
        self._folder, self._check_owner = folder, check_owner
        self.written: int | None = None
        """The step of the last checkpoint on disk."""
        self._writing: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copies the present state and writes it. Waits for the previous write."""
        self.wait()
        kept = tree_map(_copied, state)
        self._writing = self._thread.submit(self._write, step, kept)

    def wait(self) -> None:
        """Returns once all is on disk. Call it before anything that relies on it, such as the end of the job."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Like `wait`, at the end. If an error ended the training, a failed write is only printed."""
        try:
            self.wait()
        except Exception as failed:
            if error is None:
                raise
            print(f"the last checkpoint could not be written: {failed}", flush=True)
        finally:
            self._thread.shutdown()

    def _write(self, step: int, state: dict[str, Any]) -> None:
        self._check_owner()
        save_checkpoint(self._folder, step, state)
        self.written = step


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def load_checkpoint(folder: Path, say: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the newest sound checkpoint, with tensors on the CPU, or None. Damaged ones are set aside."""
    return next(((step, state) for step, state, _ in load_checkpoints(folder, say)), None)


def load_checkpoints(folder: Path, say: Callable[[str], None]) -> Iterator[tuple[int, dict[str, Any], Path]]:
    """(step, state, file) of every sound checkpoint, newest first, each read when requested. Damaged ones are set aside with a message."""
    for path in _checkpoints(folder):
        match = _NAME.fullmatch(path.name)
        assert match is not None
        try:
            content = read_bytes(path, MAX_BYTES)
        except DamagedFile as error:
            say(f"{error}; set aside")
            path.rename(path.with_suffix(".damaged"))
            continue
        if hashlib.sha256(content).hexdigest()[:16] == match[2]:
            try:
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                say(f"{path} cannot be read ({error}); set aside")
            else:
                yield int(match[1]), state, path
                continue
        else:
            say(f"{path} is damaged (its digest is not the one in its name); set aside, trying the previous checkpoint")
        path.rename(path.with_suffix(".damaged"))


def set_aside_checkpoints(folder: Path) -> None:
    """Sets all checkpoints aside for a training that restarts, which would otherwise resume from them."""
    for path in _checkpoints(folder):
        set_aside_checkpoint(path)


def set_aside_checkpoint(path: Path) -> None:
    """Sets one checkpoint aside."""
    path.rename(path.with_suffix(".unused"))


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted((path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)), reverse=True)
