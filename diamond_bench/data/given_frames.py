"""Frames that somebody imagined elsewhere: one NumPy file, HDF5 file or folder of videos for each kind of play.

Array files hold uint8 (rows, [K,] T, h, w, 3) in RGB: `.npy` the array itself, `.npz` and HDF5 files an array named `frames`. A folder of
videos holds one video per future, in the order of the rows. Pickles are never loaded, and links in the folder are never followed.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diamond_bench.data.foreign import VIDEOS, own_files
from diamond_bench.data.videos import read_video
from diamond_bench.errors import UserError, counted, joined, nearest
from diamond_bench.reading import open_file

FRAMES = "frames"
"""Name of the array in .npz and HDF5 files."""
HDF5 = (".hdf5", ".h5")
SUFFIXES = (".npy", ".npz", *HDF5)
Frames = npt.NDArray[np.uint8]
Reader = Callable[[range], Frames]
"""reader(rows) -> their frames, uint8 (n, [K,] T, h, w, 3). Raises UserError for a file that cannot be read."""


def find_given(folder: Path, plays: Collection[str]) -> dict[str, Path]:
    """The file, or folder of videos, of each kind of play that `folder` holds.

    Raises UserError for two of one kind, for a file of arrays that is named after no kind, and for a link.
    """
    found: dict[str, Path] = {}
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: expected a folder of imagined frames ({error.strerror})") from None
    for path in entries:
        play = path.stem if path.suffix.lower() in SUFFIXES else path.name
        if path.suffix.lower() in SUFFIXES and play not in plays:
            raise UserError(f"{path}: no frames of this name were asked for: {nearest(play, plays)}")
        if play not in plays:
            continue
        if path.is_dir() != (path.suffix.lower() not in SUFFIXES):
            raise UserError(f"{path}: expected a file {play}{SUFFIXES[0]} (or {', '.join(SUFFIXES[1:])}), or a folder {play} of videos")
        if play in found:
            raise UserError(f"{folder}: it holds {found[play].name} and {path.name}; expected one of them")
        found[play] = path
        for file in [path, *(path.rglob("*") if path.is_dir() else ())]:
            if file.is_symlink():
                raise UserError(f"{file}: it is a link; only files in the folder itself are read")
    return found


def unread(folder: Path, plays: Collection[str]) -> list[str]:
    """The names in `folder` that begin with a kind of play and are in none of the formats, such as rollouts.pt."""
    return sorted(path.name for path in folder.iterdir() if path.name.split(".")[0] in plays and path.suffix.lower() not in ("", *SUFFIXES))


def open_given(path: Path, shape: tuple[int, ...]) -> Reader:
    """A reader of the frames at `path`, from `find_given`. `shape`: the expected (rows, [K,] T, h, w, 3).

    Raises UserError for another shape or type, and for a damaged file. Videos are decoded when they are read.
    """
    if path.is_dir():
        return _videos(path, shape)
    return {".npy": _npy, ".npz": _npz}.get(path.suffix.lower(), _hdf5)(path, shape)


def digest_of(found: dict[str, Path]) -> str:
    """SHA-256 over the names and contents of these files."""
    total = hashlib.sha256()
    for play, path in sorted(found.items()):
        for file in own_files(path, VIDEOS) if path.is_dir() else [path]:
            try:
                descriptor = open_file(file)
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror})") from None
            with os.fdopen(descriptor, "rb") as content:
                total.update(f"{play}/{file.name}\n{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _check(path: Path, shape: tuple[int, ...], dtype: Any, expected: tuple[int, ...]) -> None:
    """Raises UserError for another type or shape than the expected one, with the likely reason."""
    if dtype.hasobject:
        raise UserError(f"{path}: it holds pickled Python objects, which are never loaded; save one uint8 array {expected}")
    if dtype != np.uint8:
        raise UserError(f"{path}: its frames are {dtype}; expected uint8 from 0 to 255, such as (255 * frames).round().astype('uint8')")
    if shape == expected:
        return
    first = (*expected[:-3], 3, *expected[-3:-1])
    if shape == first:
        why = "its colours come before height and width: move that axis to the end"
    else:
        why = _differing(shape, expected) or f"the order is ({', '.join(_axes(expected))})"
    raise UserError(f"{path}: its frames have the shape {shape}; expected {expected} ({why})")


def _axes(expected: tuple[int, ...]) -> tuple[str, ...]:
    return ("trajectory", *(("sample",) if len(expected) == 6 else ()), "time", "height", "width", "colour")


def _differing(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """What is missing, or too much, if the sizes differ along one axis alone. Empty otherwise."""
    if len(shape) != len(expected):
        return ""
    differing = [i for i, (has, wanted) in enumerate(zip(shape, expected, strict=True)) if has != wanted]
    if len(differing) > 1:
        return ""
    (axis,) = differing
    has, wanted = shape[axis], expected[axis]
    if axis == 0:
        return f"{counted(abs(wanted - has), 'trajectory', 'trajectories')} {'missing' if has < wanted else 'too many'}"
    return f"{has} along the axis {_axes(expected)[axis]}, not {wanted}"


def _npy(path: Path, expected: tuple[int, ...]) -> Reader:
    try:
        with os.fdopen(open_file(path), "rb") as file:
            shape, dtype = _header(file)
            start = file.tell()
        _check(path, shape, dtype, expected)
        length = path.stat().st_size - start
        if length != int(np.prod(expected)):
            raise ValueError(f"{length:,} bytes of frames; expected {int(np.prod(expected)):,}")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, "an .npy file", error) from None
    return lambda rows: np.array(array[rows.start : rows.stop])


def _npz(path: Path, expected: tuple[int, ...]) -> Reader:
    try:
        os.close(open_file(path))
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if FRAMES not in names:
                raise UserError(f"{path}: it has no array {FRAMES!r}, only {joined(sorted(names)[:10]) or 'an empty archive'}; rename it")
            with archive.open(f"{FRAMES}.npy") as file:
                shape, dtype = _header(file)
        _check(path, shape, dtype, expected)
        with np.load(path, allow_pickle=False) as stored:
            array: Frames = stored[FRAMES]
    except UserError:
        raise
    except Exception as error:  # a damaged archive makes zipfile and zlib raise a dozen kinds
        raise _damaged(path, "a whole .npz archive", error) from None
    return lambda rows: array[rows.start : rows.stop]


def _header(file: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and type in the header of an .npy file. Raises ValueError."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _hdf5(path: Path, expected: tuple[int, ...]) -> Reader:
    def array_of(file: h5py.File) -> h5py.Dataset:
        if not isinstance(file.get(FRAMES, getlink=True), h5py.HardLink):
            raise UserError(f"{path}: it has no array {FRAMES!r} of its own, only {joined(sorted(file)[:10]) or 'nothing'}; rename it")
        data = file[FRAMES]
        if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
            raise UserError(f"{path}: {FRAMES} is a group or lies in another file; only an array in this file is read")
        _check(path, data.shape, data.dtype, expected)
        return data

    def read(rows: range) -> Frames:
        try:
            os.close(open_file(path))  # h5py would wait for a FIFO
            with h5py.File(path, "r") as file:
                return np.asarray(array_of(file)[rows.start : rows.stop], np.uint8)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, "a readable HDF5 file", error) from None

    read(range(0))
    return read


def _videos(path: Path, expected: tuple[int, ...]) -> Reader:
    files = own_files(path, VIDEOS)
    each = int(np.prod(expected[1:-4]))  # K futures of each row
    if len(files) != expected[0] * each:
        found = counted(len(files), "video", "videos")
        raise UserError(f"{path}: it holds {found} ({', '.join(VIDEOS)}); expected {expected[0] * each}, one for each future")

    def read(rows: range) -> Frames:
        videos = [_video(file, expected[-4:]) for file in files[rows.start * each : rows.stop * each]]
        return np.stack(videos).reshape(len(rows), *expected[1:]) if videos else np.empty((0, *expected[1:]), np.uint8)

    return read


def _video(file: Path, expected: tuple[int, ...]) -> Frames:
    frames = np.empty(expected, np.uint8)
    count = 0
    for frame in read_video(file):
        if frame.shape != expected[1:]:
            raise UserError(f"{file}: its frames are {frame.shape[0]} x {frame.shape[1]}; expected {expected[1]} x {expected[2]}")
        if count < len(frames):
            frames[count] = frame
        count += 1
        if count > len(frames):
            break
    if count != len(frames):
        more = "more than " if count > len(frames) else ""
        raise UserError(f"{file}: it has {more}{min(count, len(frames))} frames; expected {len(frames)}")
    return frames


def read_through(reader: Reader, total: int, at_once: int = 16) -> Iterable[Frames]:
    """All rows, some at a time."""
    for start in range(0, total, at_once):
        yield reader(range(start, min(start + at_once, total)))


def _damaged(path: Path, what: str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: not {what} of frames ({reason[:200]})")
