"""Writes episodes as HDF5 files of frames, in the layout that `frame_files` reads."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import torch

from diamond_bench.data.foreign import FRAME_FILES
from diamond_bench.data.frame_actions import Mapped, encode
from diamond_bench.data.pictures import Picture
from diamond_bench.data.sources import SegmentSource
from diamond_bench.envs.first_person import CLICKS, KEYS, MOUSE_X, MOUSE_Y, no_motion

FRAMES_PER_FILE = 1000
_PAST, _STATE = 3, 3
"""Actions in `frame_i_xaux`, and numbers after each: health, ammunition and team, which are 0 here."""
_BITS = len(KEYS) + len(CLICKS)


def write_frame_files(source: SegmentSource, mapped: Mapped, picture: Picture, folder: Path, first: int) -> Iterator[Path]:
    """Writes the episodes of a source to files hdf5_N.hdf5, N from `first`, and yields each. Files have at most 1,000 frames.

    Longer episodes continue in the next file. Rewards and ends are not written: the layout has none. The action of an episode's last frame
    is none. Memory holds one file.
    """
    for start, length in zip(source.starts.tolist(), source.lengths.tolist(), strict=True):
        for begin in _begins(length):
            end = min(length, begin + FRAMES_PER_FILE)
            read = source.read(torch.arange(start + begin, start + end)[:, None])
            columns = mapped(read.actions[:, 0].cpu().numpy())
            if end == length:
                columns[-1] = no_motion()
            path = folder / f"hdf5_{first}{FRAME_FILES}"
            _write(path, [picture(frame) for frame in read.frames[:, 0].permute(0, 2, 3, 1).cpu().numpy()], columns)
            first += 1
            yield path


def count_files(source: SegmentSource) -> int:
    """The number of files that `write_frame_files` writes for a source."""
    return sum(len(_begins(length)) for length in source.lengths.tolist())


def _begins(length: int) -> Sequence[int]:
    """First frames of an episode's files. A last file of one frame would have no step, so that frame is left out."""
    return [begin for begin in range(0, length, FRAMES_PER_FILE) if length - begin > 1]


def _write(path: Path, frames: Sequence[npt.NDArray[np.uint8]], columns: npt.NDArray[np.int64]) -> None:
    actions = encode(columns)
    mouse = np.stack([np.array(MOUSE_X)[columns[:, -2]] / MOUSE_X[-1], np.array(MOUSE_Y)[columns[:, -1]] / MOUSE_Y[-1]], axis=1)
    described = np.concatenate([columns[:, :_BITS], mouse, np.zeros((len(columns), _STATE))], axis=1)
    past = np.concatenate([np.zeros((_PAST, described.shape[1])), described])
    with h5py.File(path, "w") as file:
        for i, frame in enumerate(frames):
            file[f"frame_{i}_x"] = frame[..., ::-1]
            file[f"frame_{i}_y"] = actions[i]
            file[f"frame_{i}_xaux"] = past[i : i + _PAST][::-1].ravel()
            file[f"frame_{i}_helperarr"] = np.zeros(2)
