"""The user's own HDF5 files of frames, in the layout of Pearce and Zhu's Counter-Strike data (arXiv 2104.04258).

A file holds one episode, of 1,000 frames in the published data. Frame i is two HDF5 datasets: `frame_i_x`, the image (h, w, 3) uint8 in the
order BGR, and `frame_i_y`, the action taken at that frame, (51,) float64 of zeros and ones (`frame_actions`). Other keys are not read.

HDF5 only finds the place of each array in the file. Their bytes are then read directly: each must be stored contiguously, as h5py stores
arrays by default. So several threads can read at once, and a file can neither lead to other files nor claim more memory than it has bytes.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from diamond_bench.data.foreign import FRAME_FILES, MAX_SIDE, own_files
from diamond_bench.data.frame_actions import WIDTH, decode
from diamond_bench.errors import UserError
from diamond_bench.reading import open_file

_KEY = re.compile(r"frame_(\d{1,9})_[xy]")
_BROKEN = (OSError, RuntimeError, ValueError, KeyError, TypeError)
"""h5py's exceptions for a damaged file."""


@dataclass(frozen=True)
class Places:
    """The places of an episode's arrays in its file."""

    path: Path
    sides: tuple[int, int]
    """Height and width of the stored frames."""
    frames: npt.NDArray[np.int64]
    """(T + 1,) first byte of each frame."""
    actions: npt.NDArray[np.int64]
    """(T + 1,) first byte of each action."""


def lengths(folder: Path) -> list[int]:
    """Frames of each file, from the names of its arrays. Reads no arrays except the places of those of the first file.

    Raises UserError for a file that is no HDF5, is truncated, or lacks an array.
    """
    files = own_files(folder, (FRAME_FILES,))
    find_places(files[0])
    found = []
    for path in files:
        try:
            with _opened(path) as file:
                found.append(_count(path, file))
        except _BROKEN as error:
            raise _damaged(path, error) from None
    return found


def find_places(path: Path, sides: tuple[int, int] | None = None) -> Places:
    """The places of the arrays of a file. `sides`: the expected height and width, None for those of frame 0.

    Raises UserError for a file that is no HDF5, is truncated, lacks an array, or holds one of another shape or type, outside of the file,
    or not contiguous.
    """
    try:
        with _opened(path) as file:
            count = _count(path, file)
            sides = sides or _first_sides(path, file)
            size = path.stat().st_size
            frames = [_place(path, file, f"frame_{i}_x", (*sides, 3), np.dtype(np.uint8), size) for i in range(count)]
            actions = [_place(path, file, f"frame_{i}_y", (WIDTH,), np.dtype(np.float64), size) for i in range(count)]
    except _BROKEN as error:
        raise _damaged(path, error) from None
    return Places(path, sides, np.array(frames, np.int64), np.array(actions, np.int64))


def _first_sides(path: Path, file: h5py.File) -> tuple[int, int]:
    first = _array(file, "frame_0_x")
    shape: tuple[int, ...] = () if first is None else first.shape
    if len(shape) != 3 or shape[2] != 3 or not all(1 <= side <= MAX_SIDE for side in shape):
        raise UserError(f"{path}: frame_0_x has shape {shape}; expected (h, w, 3) with sides of at most {MAX_SIDE}")
    return shape[0], shape[1]


def read_frames(path: Path, sides: tuple[int, int], offsets: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames (h, w, 3) RGB at these places of a file, one after the other. Raises UserError if the file cannot be read."""
    import cv2  # planning does without it

    height, width = sides
    for data in _read(path, offsets, height * width * 3):
        yield np.asarray(cv2.cvtColor(np.frombuffer(data, np.uint8).reshape(height, width, 3), cv2.COLOR_BGR2RGB), np.uint8)


def read_actions(places: Places) -> npt.NDArray[np.int64]:
    """(T + 1, 15) columns of `first_person.ACTIONS`. Raises UserError for an action that is none, with its frame."""
    stored = np.stack([np.frombuffer(data, np.float64) for data in _read(places.path, places.actions, WIDTH * 8)])
    return decode(stored, str(places.path))


def _read(path: Path, offsets: Sequence[int] | npt.NDArray[np.int64], size: int) -> Iterator[bytes]:
    try:
        descriptor = open_file(path)
        try:
            for offset in offsets:
                data = os.pread(descriptor, size, int(offset))
                if len(data) != size:
                    raise OSError(0, "it is shorter than before")
                yield data
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); was the file changed?") from None


def _opened(path: Path) -> h5py.File:
    os.close(open_file(path))  # h5py would wait for a FIFO
    return h5py.File(path, "r")


def _count(path: Path, file: h5py.File) -> int:
    """The number of frames. Raises UserError if one of their arrays is missing."""
    names = set(file)
    numbers = [int(match[1]) for match in map(_KEY.fullmatch, names) if match]
    if len(numbers) < 4:
        raise UserError(f"{path}: {len(numbers)} arrays frame_i_x and frame_i_y; expected those of at least 2 frames")
    for i in range(max(numbers) + 1):  # ends at the first gap
        for key in (f"frame_{i}_x", f"frame_{i}_y"):
            if key not in names:
                raise UserError(f"{path}: {key} is missing; expected both arrays of frames 0 to {max(numbers)}")
    return max(numbers) + 1


def _array(file: h5py.File, key: str) -> h5py.Dataset | None:
    """The array of this file itself under a key. None for a link and a group."""
    item = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
    return item if isinstance(item, h5py.Dataset) else None


def _place(path: Path, file: h5py.File, key: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], size: int) -> int:
    """The first byte of an array, which must have this shape and type and lie whole in the file of `size` bytes."""
    data = _array(file, key)
    if data is None:
        raise UserError(f"{path}: {key} is a link or a group; only arrays in that file are read")
    if data.shape != shape or data.dtype != dtype:
        raise UserError(f"{path}: {key} is {data.dtype} {data.shape}; expected {dtype} {shape}, as in the first file")
    start = 0
    if data.is_virtual:
        data, start = _behind(path, file, key, data)
    if data.external:
        raise UserError(f"{path}: {key} lies in another file; only arrays in that file are read")
    offset = data.id.get_offset()
    if offset is None:
        raise UserError(f"{path}: {key} is empty, compressed or in chunks; expected a contiguous array (h5repack -l CONTI IN OUT)")
    first, length = int(offset) + start, int(np.prod(shape)) * dtype.itemsize
    if first + length > size:
        raise UserError(f"{path}: {key} ends after the end of the file; is it truncated?")
    return first


def _behind(path: Path, file: h5py.File, key: str, data: h5py.Dataset) -> tuple[h5py.Dataset, int]:
    """The array of the same file from which a virtual array takes one row, and the byte of that row in it."""
    sources = data.virtual_sources()
    names = [source.dset_name.removeprefix("/") for source in sources if source.file_name == "."]
    behind = _array(file, names[0]) if len(sources) == len(names) == 1 and "/" not in names[0] else None
    if behind is None:
        raise UserError(f"{path}: {key} is a virtual array of other files or of several arrays; only arrays in that file are read")
    first, last = sources[0].src_space.get_select_bounds()
    rows = (first[0], *(0 for _ in data.shape)), (first[0], *(side - 1 for side in data.shape))
    if behind.is_virtual or behind.shape[1:] != data.shape or behind.dtype != data.dtype or (first, last) != rows:
        raise UserError(f"{path}: {key} is a virtual array; expected one row of a contiguous array {('n', *data.shape)} of {data.dtype}")
    return behind, int(first[0]) * data.size * data.dtype.itemsize


def _damaged(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UserError(f"{path}: not a readable HDF5 file ({reason})")
