"""Segments read from a dataset's HDF5 file during training. Frames stay on disk, and memory does not grow with their number.

HDF5 admits one thread at a time to a file, and decompresses within that time. So it is asked only once, for the position of each chunk in
the file. Then threads read and decompress chunks themselves. A chunk, the smallest unit that can be read, contains up to 32 frames or 1 MB
(`data/minari_io.py`).
"""

import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_bench.data.minari_io import MAIN_FILE, open_dataset
from diamond_bench.data.readers import Readers, by_part
from diamond_bench.data.segments import Segments, read_actions, with_outcomes
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec

_UNCOMPRESSED = 1
"""Bit of a chunk's filter mask: HDF5 stores a chunk uncompressed if compression would make it larger."""


class StreamedSource:
    """The episodes of a split of a dataset artifact. All except frames lies in memory, about 15 bytes per frame."""

    def __init__(self, split_folder: Path, device: torch.device, readers: int) -> None:
        """Raises UserError if the dataset is missing, damaged, empty, or not stored like datasets of this program."""
        self._path, self._device = split_folder / "data" / MAIN_FILE, device
        self.reads_ahead, self._readers = readers > 0, Readers(readers)
        storage = open_dataset(split_folder / "data")
        if storage.total_episodes == 0 or storage.observation_space.shape is None:
            raise UserError(f"{split_folder / 'data'}: no episodes in it")
        height, width, _ = storage.observation_space.shape
        self._sides = height, width
        spec = ActionSpec.of_space(storage.action_space)
        try:
            with h5py.File(self._path, "r") as file:
                episodes = [_index(file[f"episode_{number}"]) for number in range(storage.total_episodes)]
            self._file = os.open(self._path, os.O_RDONLY)
        except (OSError, KeyError, ValueError, RuntimeError) as error:  # h5py's errors for a damaged file
            raise UserError(f"{self._path} cannot be read ({error})") from error
        lengths = torch.tensor([episode.rows for episode in episodes])
        starts = lengths.cumsum(0) - lengths
        self.starts, self.lengths, self.num_frames = starts.to(device), lengths.to(device), int(lengths.sum())
        self._actions = torch.zeros((self.num_frames, *spec.shape), dtype=torch.float32 if spec.low else torch.int64)
        self._rewards, self._finals = torch.zeros(self.num_frames), starts + lengths - 1
        self._ends = torch.zeros(self.num_frames, dtype=torch.bool)
        for start, episode in zip(starts.tolist(), episodes, strict=True):
            rows = slice(start, start + len(episode.actions))
            self._actions[rows], self._rewards[rows] = torch.from_numpy(episode.actions), torch.from_numpy(episode.rewards).nan_to_num()
            self._ends[rows.stop - 1] = episode.terminated
            episode.chunks[:, 0] += start
        self._chunks = np.concatenate([episode.chunks for episode in episodes])
        """(n, 5) int64: first row, rows, stored bytes, offset in the file, and filter mask of each chunk."""

    def read(self, places: Tensor) -> Segments:
        """See `SegmentSource.read`."""
        places = places.cpu()
        rows, mask = places.numpy().ravel(), places >= 0
        on_gpu = self._device.type == "cuda"
        frames = torch.zeros((*places.shape, 3, *self._sides), dtype=torch.uint8, pin_memory=on_gpu)
        target = frames.numpy().reshape(len(rows), 3, *self._sides)
        self._readers.each(lambda chunk, which: self._copy(target, rows, chunk, which), by_part(rows, self._chunks[:, 0]))
        read = with_outcomes(Segments(frames, read_actions(self._actions, places), mask), places, self._rewards, self._ends, self._finals)
        return read.to(self._device, non_blocking=on_gpu)

    def close(self) -> None:
        """See `SegmentSource.close`."""
        self._readers.close()
        os.close(self._file)

    def _copy(self, target: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], chunk: int, which: npt.NDArray[np.int64]) -> None:
        first, size, stored, offset, mask = self._chunks[chunk].tolist()
        height, width = self._sides
        try:
            data = os.pread(self._file, stored, offset)
            if not mask & _UNCOMPRESSED:
                data = zlib.decompress(data, bufsize=size * height * width * 3)
            frames = np.frombuffer(data, np.uint8).reshape(size, height, width, 3)
        except (OSError, zlib.error, ValueError) as error:
            raise UserError(f"{self._path}: the frames from row {first} on cannot be read ({error}); was the file changed?") from error
        target[which] = frames[rows[which] - first].transpose(0, 3, 1, 2)


class _Episode(NamedTuple):
    """An episode of T steps without its frames."""

    rows: int
    """T + 1."""
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    """(T,), NaN in games without rewards."""
    terminated: bool
    chunks: npt.NDArray[np.int64]
    """As in `StreamedSource._chunks`, but with rows counted from the episode's own first one."""


def _index(group: h5py.Group) -> _Episode:
    """Reads all except frames. Raises ValueError if the frames are stored in another way."""
    frames: h5py.Dataset = group["observations"]
    if (
        frames.dtype != np.uint8
        or frames.compression != "gzip"
        or frames.shuffle
        or frames.fletcher32
        or frames.chunks[1:] != frames.shape[1:]
    ):
        raise ValueError(f"{frames.name} is not stored as gzip chunks of whole frames")
    chunks: list[tuple[int, int, int, int, int]] = []
    frames.id.chunk_iter(lambda c: chunks.append((c.chunk_offset[0], frames.chunks[0], c.size, c.byte_offset, c.filter_mask)))
    if sum(size for _, size, *_ in chunks) < len(frames):
        raise ValueError(f"{frames.name} lacks chunks")
    terminated = bool(group["terminations"][-1])
    return _Episode(len(frames), group["actions"][()], group["rewards"][()], terminated, np.array(sorted(chunks), np.int64))
