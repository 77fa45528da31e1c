"""Sources of training segments (`training.segments`): the interface, segments in memory, and reading ahead."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from diamond_bench.config import SEGMENT_SOURCES, imported
from diamond_bench.data.linked import INDEX, LinkedSource, load_linked
from diamond_bench.data.segments import Layout, Segments, read_static, segment_places, tensors_of
from diamond_bench.data.static import EpisodeSet, load_episodes
from diamond_bench.data.streamed import StreamedSource


class SegmentSource(Layout, Protocol):
    """The episodes of one split of a dataset. `segment_places` draws from its layout, and a source only reads the drawn places."""

    reads_ahead: bool
    """Whether reading takes so long that a thread should read while the device computes."""

    def read(self, places: Tensor) -> Segments:
        """The segments at `places`, (b, t) int64 rows, -1 for padding. They lie on the training device and equal those of `MemorySource`
        bit for bit.

        If `reads_ahead`, another thread calls it, one call at a time. Raises UserError if a file cannot be read.
        """
        ...

    def close(self) -> None:
        """Closes its files and ends its threads."""
        ...


def open_source(name: str, split_folder: Path, device: torch.device | str, readers: int = 4) -> SegmentSource:
    """The source registered as `name`, for a split of a dataset artifact.

    `readers`: number of threads that read what is streamed (training.readers). Raises UserError if the split is missing or damaged.
    """
    make: Callable[[Path, torch.device, int], SegmentSource] = imported(SEGMENT_SOURCES[name])
    return make(split_folder, torch.device(device), readers)


def streamed(split_folder: Path, device: torch.device, readers: int) -> SegmentSource:
    """A source whose frames stay on disk: in the user's own files if the split is linked to them, or else in the split's file."""
    return (LinkedSource if (split_folder / INDEX).exists() else StreamedSource)(split_folder, device, readers)


def load_rows(split_folder: Path) -> EpisodeSet:
    """All episodes of a split on the CPU, whether its frames lie in it or in the user's own files. See `static.load_split`."""
    return load_linked(split_folder) if (split_folder / INDEX).exists() else load_episodes(split_folder)


class MemorySource:
    """All episodes in memory on the training device."""

    reads_ahead = False

    def __init__(self, split_folder: Path, device: torch.device, readers: int = 0) -> None:
        self.episodes = load_rows(split_folder).to(device)
        self.starts, self.lengths, self.num_frames = self.episodes.starts, self.episodes.lengths, self.episodes.num_frames

    def read(self, places: Tensor) -> Segments:
        """See `SegmentSource.read`."""
        return read_static(self.episodes, places)

    def close(self) -> None:
        """See `SegmentSource.close`: there is nothing to close."""


class Feed:
    """Batches of segments in order.

    The generator that also feeds the training's noise draws the places, so that all sources give the same numbers. At most one batch is
    drawn ahead, when the noise of the previous batch is drawn, and a thread reads it. After a resume, that batch is drawn again, since
    `generator_state` is the state before it was drawn.
    """

    def __init__(
        self, source: SegmentSource, batch_size: int, length: int, generator: torch.Generator, share: tuple[int, int] = (0, 1)
    ) -> None:
        """Batches of `batch_size` segments of `length` frames. share=(i, n): only the i-th of n equal parts of each batch is read."""
        self._source, self._batch_size, self._length, self._generator = source, batch_size, length, generator
        self._share = share
        self._thread = ThreadPoolExecutor(1, "segments") if source.reads_ahead else None
        self._stream = torch.cuda.Stream(generator.device) if source.reads_ahead and generator.device.type == "cuda" else None
        self._before: Tensor | None = None
        self._next: Future[Segments] | None = None

    def __next__(self) -> Segments:
        """The next batch. Raises UserError if it cannot be read."""
        if self._thread is None:
            return self._source.read(self._places())
        self.read_ahead()
        assert self._next is not None
        segments, self._next, self._before = self._next.result(), None, None
        if self._stream is not None:  # it was created on another stream than the one that uses it
            for tensor in tensors_of(segments):
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        return segments

    def read_ahead(self) -> None:
        """Begins to read the next batch, unless that has begun. Call it when all noise of the previous batch is drawn."""
        if self._thread is not None and self._next is None:
            self._before = self._generator.get_state()
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):  # places do not wait for the update
                places = self._places()
            self._next = self._thread.submit(self._read, places)

    def generator_state(self) -> Tensor:
        """The generator's state before the read-ahead batch was drawn, for a checkpoint."""
        return self._generator.get_state() if self._before is None else self._before

    def close(self) -> None:
        """Ends the thread. The source stays open."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _places(self) -> Tensor:
        places = segment_places(self._source, self._batch_size, self._length, self._generator)
        return places.chunk(self._share[1])[self._share[0]]

    def _read(self, places: Tensor) -> Segments:
        if self._stream is None:
            return self._source.read(places)
        with torch.cuda.stream(self._stream):
            segments = self._source.read(places)
            self._stream.synchronize()
        return segments


def content_digest(source: SegmentSource, block: int = 256) -> str:
    """SHA-256 (hex) of all frames and actions in order, read in blocks of rows. It is equal for all sources of one split."""
    digest = hashlib.sha256()
    for first in range(0, source.num_frames, block):
        rows = torch.arange(first, min(first + block, source.num_frames), device=source.starts.device)
        segments = source.read(rows[:, None])
        for tensor in (segments.frames, segments.actions):
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
