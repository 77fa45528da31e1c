"""A training split whose frames stay in the user's own HDF5 files of frames (`data.link_frames`).

The split's folder holds an index: the place of each frame in its file, and the actions. Threads read frames at these places, resize them
and put them in order, without HDF5. So memory holds the index, about 40 bytes per frame, and the batches.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_bench.data.foreign import dataset_digest
from diamond_bench.data.frame_files import read_frames
from diamond_bench.data.pictures import Picture
from diamond_bench.data.readers import Readers, by_part
from diamond_bench.data.segments import Segments, read_actions, with_outcomes
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.reading import read_json
from diamond_bench.shapes import count, listing, record, row, text
from diamond_bench.spaces import FrameSpec

INDEX = "linked.json"
_ARRAYS = "linked.npz"
_MAX_BYTES = 64 * 2**20
_BLOCK = 256
_INDEX = record({"folder": text, "digest": text, "stored": row(count, count), "frames": row(count, count), "files": listing(text)})


@dataclass(frozen=True)
class LinkedEpisode:
    """The places of an episode's frames in a file of the user's."""

    file: str
    """Relative to the dataset's folder."""
    offsets: npt.NDArray[np.int64]
    """(T + 1,) first byte of each frame."""
    actions: npt.NDArray[np.int64]
    """(T, k)."""


def write_linked(
    split_folder: Path, folder: Path, digest: str, stored: tuple[int, int], frames: FrameSpec, episodes: Sequence[LinkedEpisode]
) -> None:
    """Writes the index of a split to a new folder. `folder` and `digest`: the user's dataset. `stored`: height and width in its files."""
    split_folder.mkdir(parents=True)
    arrays: dict[str, Any] = {
        "lengths": np.array([len(episode.offsets) for episode in episodes], np.int64),
        "offsets": np.concatenate([episode.offsets for episode in episodes]),
        "actions": np.concatenate([np.pad(episode.actions, ((0, 1), (0, 0))) for episode in episodes]).astype(np.int16),
    }
    np.savez(split_folder / _ARRAYS, **arrays)
    files = [episode.file for episode in episodes]
    index = {"folder": str(folder), "digest": digest, "stored": stored, "frames": frames.sides, "files": files}
    (split_folder / INDEX).write_text(json.dumps(index))


class LinkedSource:
    """The episodes of a linked split. See `SegmentSource`."""

    def __init__(self, split_folder: Path, device: torch.device, readers: int) -> None:
        """Raises UserError if the index is damaged, or the user's files are not those that were imported."""
        self.reads_ahead, self._device, self._readers = readers > 0, device, Readers(readers)
        try:
            index = read_json(split_folder / INDEX, _MAX_BYTES)
            _INDEX(index)
            with np.load(split_folder / _ARRAYS, allow_pickle=False) as arrays:
                lengths, self._offsets, actions = arrays["lengths"], arrays["offsets"], arrays["actions"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{split_folder / INDEX}: missing or damaged ({error}); delete the dataset and import it again") from None
        folder = Path(index["folder"])
        if not folder.is_dir() or dataset_digest(folder) != index["digest"]:
            raise UserError(
                f"{folder} is missing, or has changed since it was imported with data.link_frames=true, which left the training frames "
                "there: restore the files, or import them again"
            )
        self._files = [folder / name for name in index["files"]]
        self._stored, self._picture = (index["stored"][0], index["stored"][1]), Picture(FrameSpec(*index["frames"]))
        self.sides = self._picture.frames.sides
        self._firsts = lengths.cumsum() - lengths
        self._finals = torch.from_numpy(self._firsts + lengths - 1)
        self.starts, self.lengths = torch.from_numpy(self._firsts).to(device), torch.from_numpy(lengths).to(device)
        self.num_frames = len(self._offsets)
        self._actions = torch.from_numpy(actions)

    def read(self, places: Tensor) -> Segments:
        """See `SegmentSource.read`."""
        places = places.cpu()
        rows, mask = places.numpy().ravel(), places >= 0
        on_gpu = self._device.type == "cuda"
        frames = torch.zeros((*places.shape, 3, *self.sides), dtype=torch.uint8, pin_memory=on_gpu)
        target = frames.numpy().reshape(len(rows), 3, *self.sides)
        self._readers.each(lambda file, which: self._copy(target, rows, file, which), by_part(rows, self._firsts))
        read = with_outcomes(Segments(frames, self.read_actions(places), mask), places, finals=self._finals)
        return read.to(self._device, non_blocking=on_gpu)

    def read_actions(self, places: Tensor) -> Tensor:
        """The actions at `places`, with a last axis of k columns, int64."""
        return read_actions(self._actions, places).long()

    def close(self) -> None:
        """See `SegmentSource.close`."""
        self._readers.close()

    def _copy(self, target: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], file: int, which: npt.NDArray[np.int64]) -> None:
        found = read_frames(self._files[file], self._stored, self._offsets[rows[which]])
        for place, frame in zip(which, found, strict=True):
            target[place] = self._picture(frame).transpose(2, 0, 1)


def load_linked(split_folder: Path) -> EpisodeSet:
    """All episodes of a linked split on the CPU. Raises UserError, see `LinkedSource`."""
    with closing(LinkedSource(split_folder, torch.device("cpu"), readers=0)) as source:
        rows = torch.arange(source.num_frames)[:, None]
        frames = torch.empty((source.num_frames, 3, *source.sides), dtype=torch.uint8)
        for block in rows.split(_BLOCK):
            frames[block[:, 0]] = source.read(block).frames[:, 0]
        actions = source.read_actions(rows)[:, 0]
    truncations = torch.zeros(source.num_frames, dtype=torch.bool)
    truncations[source.starts + source.lengths - 2] = True
    return EpisodeSet(frames, actions, None, torch.zeros_like(truncations), truncations, source.starts, source.lengths)
