"""What several files of tests use, made once for all workers of pytest-xdist, and read by all."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

_DONE = "made"
_FAILED = "failed"


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """`fill_once` a folder that all workers of this run of pytest have in common, and no other run."""
    ours = factory.getbasetemp()
    return fill_once((ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "shared", name, make)


def fill_once(shared: Path, name: str, make: Callable[[Path], object]) -> Path:
    """The folder shared/name that `make(folder)` fills, called by whichever process comes first; the others wait for it.

    Where `make` fails it is not tried again: the others fail too, saying of what.
    """
    shared.mkdir(exist_ok=True)
    folder, marks = shared / name, shared / f"{name}.marks"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it back when its owner dies, whatever of
        if (marks / _FAILED).exists():
            pytest.fail(f"{name} could not be made: {(marks / _FAILED).read_text()}", pytrace=False)
        if not (marks / _DONE).exists():
            if marks.exists():
                pytest.fail(f"{name} is half made: the process that made it died", pytrace=False)
            marks.mkdir()
            folder.mkdir()
            try:
                make(folder)
            except BaseException as error:
                (marks / _FAILED).write_text(f"{type(error).__name__}: {error}")
                raise
            (marks / _DONE).touch()
    return folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file, by its path: what tells whether somebody changed what he was to read."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
