"""Files that are either complete or absent: they are written under a temporary name and renamed when complete. Damage is distinguished from
absence."""

import contextlib
import errno
import hashlib
import io
import json
import os
import pwd
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError
from diamond_bench.reading import load_json, read_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEMPORARY = ".tmp"
"""Suffix of unfinished files and folders. After a crash, anything with this suffix can be deleted."""
STALE_AFTER_SECONDS = 24 * 3600.0
"""Age after which no process can still be writing an unfinished file."""
MAX_BYTES = 64 * 2**20
"""Maximum size of a JSON file in bytes."""
_MAX_ARRAYS = 64 * 2**30
"""Maximum size of a file of arrays in bytes."""
IS_A_LINK = "it is a symbolic link, and nothing in a store may be one"


class DamagedFile(UserError):
    """A file of the store with unexpected content: truncated, edited by hand, or of another job."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(f"{path} is damaged: {reason}")
        self.path = Path(path)
        self.reason = reason


def temporary_name(path: Path) -> Path:
    """A hidden name in the folder of `path` that no other process uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


@contextlib.contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """A new hidden folder next to `path`, whose parents are created. The block renames it when it is complete. Otherwise it is removed."""
    temporary = temporary_name(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_atomic(path: Path, data: bytes, durable: bool = True) -> None:
    """Writes `data` to `path` (and creates its folder) in one step. `durable` data reach the disk first. Other data may be lost in a power
    cut."""
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
    """Creates `path` (and its folder) with `data`, durably, and returns whether it did. An existing file is never changed.

    If several processes write one path at the same time, exactly one of them gets True. If the file system has hard links, no reader sees
    half a file.
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


def encodable(text: str) -> str:
    """`text` with escapes for characters that UTF-8 cannot encode, such as bytes of a file's name."""
    return text.encode(errors="backslashreplace").decode()


def write_json(path: Path, content: Any, durable: bool = True) -> int:
    """Writes `content` as JSON and returns its size in bytes. Raises ValueError for NaN or infinity, which JSON cannot represent."""
    data = json.dumps(content, indent=1, allow_nan=False).encode()
    write_atomic(path, data, durable)
    return len(data)


def read_bytes(path: Path | str, most: int = MAX_BYTES) -> bytes:
    """The content of a plain file of the store.

    Raises FileNotFoundError, and DamagedFile for a link, a folder, a pipe or more than `most` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedFile(path, IS_A_LINK) from None
        if error.errno == errno.ENXIO:
            raise DamagedFile(path, "it is not a plain file") from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedFile(path, "it is not a plain file")
        if found.st_size > most:
            raise DamagedFile(path, f"it has {found.st_size} bytes, and a file of this kind has at most {most}")
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def read_json(path: Path | str, most: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in `path`. Raises FileNotFoundError if it is missing, and DamagedFile if it is anything else.

    All JSON from the store is read here. A returned object has at most `DEEPEST` levels, finite numbers, and text that can be encoded, and
    at most `most` bytes. store/shapes.py defines what each file must contain.
    """
    data = read_bytes(path, most)
    try:
        return load_json(data)
    except ValueError as error:
        raise DamagedFile(path, str(error)) from None


def read_arrays(path: Path) -> "dict[str, NDArray[Any]]":
    """All arrays of an .npz file. Raises OSError, see `reading.read_file`, and ValueError, see `arrays_in`."""
    return arrays_in(read_file(path, _MAX_ARRAYS))


def arrays_in(data: bytes, names: Collection[str] | None = None) -> "dict[str, NDArray[Any]]":
    """The arrays of an .npz archive: all of them, or those of `names` that it contains. Raises ValueError for a damaged archive.

    A damaged archive makes zipfile and zlib raise a dozen kinds of errors, including NotImplementedError.
    """
    import numpy as np

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files if names is None or name in names}
    except Exception as error:
        raise ValueError(f"not a whole archive of arrays: {type(error).__name__}: {error}") from None


def digest(content: Any) -> str:
    """Hex SHA-256 of canonical JSON: sorted keys, no spaces, ASCII. Raises ValueError for NaN or infinity."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum under the key `sha256`: the SHA-256 of the rest as canonical JSON."""
    plain = json.loads(json.dumps({key: value for key, value in content.items() if key != "sha256"}, allow_nan=False))
    return {**plain, "sha256": digest(plain)}


def has_seal(content: Mapping[str, Any], path: Path | str) -> bool:
    """Whether an object has the checksum that `sealed` adds. Raises DamagedFile with the file's name if it does not fit the rest."""
    if "sha256" not in content:
        return False
    if digest({key: value for key, value in content.items() if key != "sha256"}) != content["sha256"]:
        raise DamagedFile(path, "it was edited by hand (its checksum does not fit)")
    return True


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path | str) -> int | None:
    """Size of a file in bytes, or None if it does not exist. For a symbolic link, the size of the link."""
    try:
        return os.lstat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def not_a_folder(path: Path | str) -> str:
    """The problem with an object in place of a folder, such as a link or a file. Empty for a folder, and if nothing is there."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISDIR(mode):
        return ""
    return IS_A_LINK if stat.S_ISLNK(mode) else "it is not a folder"


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, or of its nearest existing parent."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def require_folders(root: Path, folder: Path) -> None:
    """Raises UserError if `folder`, or a folder between `root` and it, is a link or a file. The root itself may be a link."""
    for path in reversed([folder, *folder.parents][: len(folder.relative_to(root).parts)]):
        if reason := not_a_folder(path):
            raise UserError(f"{path}: {reason}; move it away{', or put what it points to in its place' * (reason == IS_A_LINK)}")


def first_link(folder: Path | str) -> str | None:
    """A symbolic link at any depth below `folder`, or None. Links are not followed."""
    for entry in _entries(folder):
        if entry.is_symlink():
            return entry.path
        if entry.is_dir(follow_symlinks=False) and (found := first_link(entry.path)):
            return found
    return None


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def require_writable(root: Path) -> None:
    """Raises UserError if nothing can be created at `root`. Leaves no trace (the root itself is not created)."""
    ancestor = root
    while not os.path.lexists(ancestor) and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    try:
        Path(tempfile.mkdtemp(prefix=".diamond-bench-", dir=ancestor)).rmdir()
    except OSError as error:
        raise unwritable(root, error) from None


def unwritable(root: Path, error: OSError) -> UserError:
    """The message for an output folder that cannot be written, or that this user may not read."""
    if error.errno == errno.ENOSPC:
        return UserError(f"no space left for output folder {root}: see `diamond-bench du`, free some with `diamond-bench gc`")
    reason = str(error.strerror or error)
    if isinstance(error, PermissionError) and error.filename:
        place, _ = barrier = _barrier(error.filename)
        if barrier != (place, "written"):
            return UserError(refusal(error))
        reason += f": {place} belongs to {owner(place)}"
    return UserError(f"output folder {root} cannot be written ({reason}): choose another with output_dir=FOLDER")


def refusal(error: PermissionError) -> str:
    """The message for a refusal by the system: the path that blocks access, its owner, and what to do."""
    if not error.filename:
        return str(error.strerror or error)
    place, action = _barrier(error.filename)
    who = owner(place)
    return f"{place} belongs to {who} and cannot be {action}: ask {who} for access, or use another output_dir=FOLDER"


def may(path: Path | str, mode: int) -> bool:
    """Whether this process has the access `mode` to a path (os.R_OK, os.W_OK, os.X_OK)."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def owner(path: Path | str) -> str:
    """The name of a path's owner: `user 1234` if the system knows no name, `an unknown user` if it does not state the owner."""
    try:
        number = os.lstat(path).st_uid
    except OSError:
        return "an unknown user"
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _barrier(name: str | bytes) -> tuple[Path, str]:
    """The path that blocks access to `name`, and the access that it lacks: entered, read or written."""
    path = Path(os.fsdecode(name)).absolute()
    for place in (*reversed(path.parents), path):
        if not os.path.lexists(place):
            return place.parent, "written"
        if place != path and not may(place, os.X_OK):
            return place, "entered"
    needed = os.R_OK | (os.X_OK if path.is_dir() else 0)
    return path, "written" if may(path, needed) else "read"
