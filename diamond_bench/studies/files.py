"""Files that are whole or absent: written under a temporary name, renamed when complete; damage is told from absence."""

import errno
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from diamond_bench.errors import UserError

TEMPORARY = ".tmp"
"""Suffix of files and folders being written; what carries it after a crash is rubbish."""
RUBBISH_AFTER_SECONDS = 24 * 3600.0
"""Age after which nobody can be writing it any more."""


class DamagedFile(UserError):
    """A file of the store that is not what was written: truncated, edited by hand, of another job."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(f"{path} is damaged: {reason}")
        self.path = Path(path)
        self.reason = reason


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


def write_atomic(path: Path, data: bytes, durable: bool = True) -> None:
    """Makes `path` (and its folder) hold `data`, in one step. `durable` data reach the disk first; others a power cut may lose."""
    temporary = temporary_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_exclusive(path: Path, data: bytes) -> bool:
    """Creates `path` (and its folder) with `data`, durably, and returns whether it did: an existing file is never changed.

    Of several processes that write one path at the same time, exactly one is told that it did. Where the file system has hard links, no
    reader sees half a file.
    """
    temporary = temporary_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _create(temporary, data)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            try:
                _create(path, data)
            except FileExistsError:
                return False
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any, durable: bool = True) -> int:
    """Writes `content` as JSON and returns its size in bytes. Raises ValueError for NaN or infinity, which JSON cannot hold."""
    data = json.dumps(content, indent=1, allow_nan=False).encode()
    write_atomic(path, data, durable)
    return len(data)


def read_json(path: Path | str) -> dict[str, Any]:
    """The JSON object in `path`. Raises FileNotFoundError where there is none, DamagedFile where it is something else."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - Path and buffers cost a third of a look at 10,000 jobs
        data = file.read()
    try:
        content = json.loads(data)
    except ValueError as error:
        raise DamagedFile(path, "empty" if not data else f"not JSON ({error})") from None
    if not isinstance(content, dict):
        raise DamagedFile(path, f"expected an object, got {type(content).__name__}")
    return content


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path | str) -> int | None:
    """Bytes of a file, or None where there is none."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - see read_json
    except (FileNotFoundError, NotADirectoryError):
        return None


def require_writable(root: Path) -> None:
    """Raises UserError where nothing can be created at `root`; leaves no trace (the root itself is not created)."""
    ancestor = root
    while not os.path.lexists(ancestor) and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    try:
        Path(tempfile.mkdtemp(prefix=".diamond-bench-", dir=ancestor)).rmdir()
    except OSError as error:
        raise unwritable(root, error) from None


def unwritable(root: Path, error: OSError) -> UserError:
    """The message for an output folder that refuses what was to be written there."""
    if error.errno == errno.ENOSPC:
        return UserError(f"no space left for output folder {root}: see `diamond-bench du`, free some with `diamond-bench gc`")
    return UserError(f"output folder {root} cannot be written ({error.strerror or error}): choose another with output_dir=FOLDER")
