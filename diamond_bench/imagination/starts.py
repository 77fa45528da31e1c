"""Segments of real play from which imagined episodes start. Many are loaded at a time, and taking one does not wait for the device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import Segments, read_segments, segment_places
from diamond_bench.data.static import EpisodeSet

BURN_IN_BATCH_SIZE = 128
"""Number of start segments that are burnt in per batch."""


class StartSegments(Protocol):
    """A source of start segments."""

    def draw(self, count: int) -> Tensor:
        """Draws the places of `count` segments, (count, L) int64."""
        ...

    def read(self, places: Tensor) -> Segments:
        """The segments at these places, (n, L)."""
        ...

    def origin(self, last: Tensor) -> Tensor:
        """(recording, step) of the frames at the places `last` (n,): (n, 2) int64, as `WorldModel.start` takes them."""
        ...

    def manual_seed(self, seed: int) -> object:
        """Restarts from a seed."""
        ...

    def get_state(self) -> Tensor:
        """For `set_state`."""
        ...

    def set_state(self, state: Tensor) -> object:
        """Continues from the state that `get_state` returned."""
        ...


class ReplayStarts:
    """Segments of `length` frames from a replay, drawn by recency (method section 4). The generator lies on its device."""

    def __init__(self, replay: Replay, length: int, generator: torch.Generator) -> None:
        self._replay, self._length, self._generator = replay, length, generator
        self._memory: int | None = None
        self.manual_seed = generator.manual_seed
        self.get_state = generator.get_state
        self.set_state = generator.set_state

    def draw(self, count: int) -> Tensor:
        """See `StartSegments.draw`."""
        place = self._replay.storage.frames.data_ptr()
        assert self._memory in (None, place), "the replay moved in memory: a recorded step would read its old place"
        self._memory = place
        return segment_places(self._replay.episodes, count, self._length, self._generator, "recency")

    def read(self, places: Tensor) -> Segments:
        """See `StartSegments.read`."""
        return read_segments(self._replay.storage, places)

    def origin(self, last: Tensor) -> Tensor:
        """As `StartSegments.origin`: a replay is one recording."""
        return torch.stack((torch.zeros_like(last), last), dim=1)


class EpisodeStarts:
    """Segments of `length` frames of a dataset's episodes. Each frame after which an action was taken is equally likely to be the last of
    a segment. What lies before an episode is padding. The generator lies on the episodes' device.
    """

    def __init__(self, episodes: EpisodeSet, length: int, generator: torch.Generator) -> None:
        self._episodes, self._length, self._generator = episodes, length, generator
        final = episodes.starts + episodes.lengths - 1
        followed = torch.ones(episodes.num_frames, dtype=torch.bool, device=final.device).index_fill(0, final, False)
        self._followed = followed.nonzero()[:, 0]
        self.manual_seed = generator.manual_seed
        self.get_state = generator.get_state
        self.set_state = generator.set_state

    def draw(self, count: int) -> Tensor:
        """As `StartSegments.draw`."""
        device = self._followed.device
        last = self._followed[torch.randint(len(self._followed), (count,), generator=self._generator, device=device)]
        places = last[:, None] + torch.arange(1 - self._length, 1, device=device)
        return torch.where(places >= self._episodes.starts[self._episode(last)][:, None], places, -1)

    def read(self, places: Tensor) -> Segments:
        """As `StartSegments.read`."""
        return read_segments(self._episodes, places)

    def origin(self, last: Tensor) -> Tensor:
        """As `StartSegments.origin`: each episode is a recording."""
        episode = self._episode(last)
        return torch.stack((episode, last - self._episodes.starts[episode]), dim=1)

    def _episode(self, rows: Tensor) -> Tensor:
        return torch.searchsorted(self._episodes.starts, rows, right=True) - 1


@dataclass(frozen=True)
class Start:
    """The start of b imagined episodes."""

    segments: Segments
    memories: tuple[Tensor, ...]
    """The reward/end model's memory after the segments, (b, k) each."""
    origin: Tensor
    """(b, 2) int64: recording and step of the last frame."""


@dataclass
class _Slots:
    """For each loaded segment, its place and the reward/end model's memory, (n, L) and (n, k)."""

    places: Tensor
    memories: tuple[Tensor, ...]


class StartRing:
    """Start segments in the order in which they were drawn. Each is used once.

    Segments have consecutive numbers, and number i lies in slot i modulo the ring's size. Only the device knows how many were taken. The
    host keeps an upper bound. It reads the number, and loads segments into free slots, only if they might run out by that bound.

    `discard_left_overs` is the authors' rule: segments are taken in blocks of `size`. If a block cannot serve all episodes that end at a
    step, the rest of it is discarded.
    """

    def __init__(
        self,
        starts: StartSegments,
        burn_in: Callable[[Segments], tuple[Tensor, ...]],
        num_envs: int,
        size: int,
        discard_left_overs: bool,
        device: torch.device,
    ) -> None:
        """`burn_in` computes the memory of n segments, (n, k) each, when they are loaded. `size`: the initial number of slots."""
        self._starts, self._burn_in, self._device = starts, burn_in, device
        self._num_envs = num_envs
        self._block = max(size, num_envs) if discard_left_overs else 1
        self._max_per_step = num_envs * (2 if discard_left_overs else 1)  # a step that discards segments discards fewer than num_envs
        self._size = 2 * self._block if discard_left_overs else max(size, num_envs)
        self._slots: _Slots | None = None
        self.clear()

    def clear(self) -> None:
        """Discards all segments. Their memory does not move."""
        self.taken = torch.zeros((), dtype=torch.int64, device=self._device)
        self._max_taken = self._loaded = 0

    def prepare(self, num_steps: int) -> None:
        """Loads enough segments for `num_steps` calls of `take`."""
        needed = num_steps * self._max_per_step
        if self._loaded - self._max_taken >= needed:
            return
        self._max_taken = int(self.taken)
        if self._loaded - self._max_taken >= needed:
            return
        if self._size - self._block + 1 < needed:
            self._enlarge(-(-(needed + self._block - 1) // self._block) * self._block)
        first_needed = self._max_taken // self._block * self._block
        self._load(first_needed + self._size - self._loaded)

    def reserve(self, num_steps: int) -> None:
        """The host's part of `num_steps` calls of `take`."""
        self.prepare(num_steps)
        self._max_taken += num_steps * self._max_per_step

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The memory that `hand_out` reads. It moves when the ring grows."""
        return () if self._slots is None else (self._slots.places, *self._slots.memories)

    def take(self, which: Tensor) -> "Start":
        """A fresh segment for each row with `which` (b,) bool true, in order. The other rows have no meaning."""
        self.reserve(1)
        start, self.taken = self.hand_out(which, self.taken)
        return start

    @torch.no_grad()
    def hand_out(self, which: Tensor, taken: Tensor) -> tuple["Start", Tensor]:
        """The device's part of a `take`. Also returns the total number of segments taken; `taken` is the number before."""
        assert self._slots is not None
        count = which.sum()
        if self._block > 1:
            left = self._block - taken % self._block
            taken = torch.where(count > left, taken + left, taken)
        slot = (taken + (which.cumsum(0) - 1).clamp(min=0)) % self._size
        places = self._slots.places[slot]
        memories = tuple(memory[slot] for memory in self._slots.memories)
        return Start(self._starts.read(places), memories, self._starts.origin(places[:, -1])), taken + count

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and numbers."""
        slots: dict[str, Any] = {}
        if self._slots is not None:  # copies, since slots are filled in place
            slots = {"places": self._slots.places.clone(), "memories": [memory.clone() for memory in self._slots.memories]}
        counts = {"taken": self.taken, "taken_at_most": self._max_taken, "loaded": self._loaded, "size": self._size}
        return {**counts, **slots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        self.taken, self._max_taken = state["taken"].to(self._device), state["taken_at_most"]
        self._loaded, self._size = state["loaded"], state["size"]
        self._slots = None
        if "places" in state:
            memories = tuple(memory.to(self._device, copy=True) for memory in state["memories"])
            self._slots = _Slots(state["places"].to(self._device, copy=True), memories)

    @torch.no_grad()
    def _load(self, count: int) -> None:
        places = self._starts.draw(count)
        parts = [self._burn_in(self._starts.read(part)) for part in places.split(BURN_IN_BATCH_SIZE)]
        memories = tuple(torch.cat(memory) for memory in zip(*parts, strict=True))
        if self._slots is None:
            self._slots = _Slots(*_empty(places, memories, self._size))
        slot = torch.arange(self._loaded, self._loaded + count, device=self._device) % self._size
        self._slots.places[slot] = places
        for kept, memory in zip(self._slots.memories, memories, strict=True):
            kept[slot] = memory
        self._loaded += count

    def _enlarge(self, size: int) -> None:
        old, old_size, self._size = self._slots, self._size, size
        if old is None:
            return
        self._slots = _Slots(*_empty(old.places, old.memories, size))
        number = torch.arange(self._max_taken, self._loaded, device=self._device)
        self._slots.places[number % size] = old.places[number % old_size]
        for new, memory in zip(self._slots.memories, old.memories, strict=True):
            new[number % size] = memory[number % old_size]


def _empty(places: Tensor, memories: tuple[Tensor, ...], size: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    return places.new_zeros((size, *places.shape[1:])), tuple(memory.new_zeros((size, *memory.shape[1:])) for memory in memories)
