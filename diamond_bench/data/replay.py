"""All experience of an agent, on its training device and on disk. Append-only.

100,000 frames of 64x64 take 1.23 GB on the device. On disk (`replay_file`) they take 5 MB for Breakout and 44 MB for Boxing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_bench.data.replay_file import Block, append_blocks, read_blocks
from diamond_bench.data.static import EpisodeSet
from diamond_bench.envs.play import Steps

REPLAY_FILE = "replay.bin"


@dataclass(frozen=True)
class ReplayEpisodes(EpisodeSet):
    """The episodes of a replay, in the order of their starts. One per environment may still be running.

    Unlike in a static dataset, an episode of T steps has T rows. The frame after its last step lies in `finals`, so no segment for the
    denoiser or the policy contains it (as in the authors' code). The rows of n environments alternate: the rows of an episode lie n apart.
    """

    rewards: Tensor
    """(N,) float32, raw."""
    finals: Tensor
    """(E or more, 3, h, w) uint8, the frame after the last step of each episode, whether it ended, was truncated or continues."""
    offsets: Tensor
    """(E,) int64, number of rows in all earlier episodes."""
    num_rows: int
    """Number of rows in all episodes."""
    stride: int
    """Distance from a row of an episode to its next one."""

    @property
    def num_frames(self) -> int:
        """`num_rows`. More rows may be allocated for future frames."""
        return self.num_rows


@dataclass
class _Episode:
    env: int
    first: int
    """Its first row, counted within its environment."""
    length: int = 0


@dataclass(frozen=True)
class Storage:
    """All rows of a replay, including unused ones. The rows of `episodes` index these."""

    frames: Tensor
    """(N, 3, h, w) uint8."""
    actions: Tensor
    """(N,) int64."""


class Replay:
    """Steps of `num_envs` environments, stored as bytes. Nothing is changed or removed, and no row moves."""

    def __init__(self, capacity: int, frame_size: int, device: torch.device | str = "cpu", num_envs: int = 1) -> None:
        """`capacity`: number of steps (of all environments) to allocate at first. With more steps, everything is copied to larger
        memory."""
        self.num_envs, self.frame_size, self.device = num_envs, frame_size, torch.device(device)
        self._num_allocated = max(1, -(-capacity // num_envs))  # rows of an environment
        self._columns = self._allocate(self._num_allocated)
        self._finals = self._empty_frames(max(64, capacity // 64))
        self._filled = [0] * num_envs
        self._saved = [0] * num_envs
        self._episodes: list[_Episode] = []
        self._running: list[int | None] = [None] * num_envs
        self._file_end = 0
        self._view: ReplayEpisodes | None = None

    @property
    def num_rows(self) -> int:
        """Number of steps, over all environments. `save` returns it and `load` takes it."""
        return sum(self._filled)

    @property
    def num_episodes(self) -> int:
        """Episodes begun."""
        return len(self._episodes)

    @property
    def episodes(self) -> ReplayEpisodes:
        """All episodes, for sampling. The frames are not copied. Raises ValueError if the replay is empty."""
        if not self._episodes:
            raise ValueError("the replay is empty: collect before sampling")
        if self._view is None:
            starts = torch.tensor([e.first * self.num_envs + e.env for e in self._episodes])
            lengths = torch.tensor([e.length for e in self._episodes])
            frames, actions, rewards, terminations, truncations = (column[: max(self._filled)].flatten(0, 1) for column in self._columns)
            self._view = ReplayEpisodes(
                frames=frames,
                actions=actions,
                rewards=rewards,
                terminations=terminations,
                truncations=truncations,
                starts=starts.to(self.device),
                lengths=lengths.to(self.device),
                finals=self._finals,
                offsets=(lengths.cumsum(0) - lengths).to(self.device),
                num_rows=self.num_rows,
                stride=self.num_envs,
            )
        return self._view

    @property
    def storage(self) -> Storage:
        """All its memory. It does not move as long as it holds no more than `capacity` steps."""
        frames, actions = (column.flatten(0, 1) for column in self._columns[:2])
        return Storage(frames, actions)

    def append(self, env: int, steps: Steps) -> None:
        """Adds consecutive steps of environment `env`, which follow its previous ones. An episode continues until a step ends or truncates
        it."""
        finals = steps.next_frames[_reached(steps.ends | steps.truncations)]
        self._append(Block(env, steps.frames, steps.actions, steps.rewards, steps.ends, steps.truncations, finals))

    def _append(self, block: Block) -> None:
        count, env = len(block.actions), block.env
        if block.frames.shape[1:] != (self.frame_size, self.frame_size, 3) or block.frames.dtype != np.uint8:
            size = self.frame_size
            raise ValueError(f"expected frames (n, {size}, {size}, 3) uint8, got {block.frames.shape} {block.frames.dtype}")
        while self._filled[env] + count > self._num_allocated:
            self._grow()
        first = self._filled[env]
        for column, values in zip(self._columns, _tensors(block), strict=True):
            column[first : first + count, env] = values.to(self.device)
        done = block.ends | block.truncations
        begin = 0
        for stop, final in zip((np.flatnonzero(_reached(done)) + 1).tolist(), block.finals, strict=True):
            running = self._running[env]
            if running is None:
                running = len(self._episodes)
                self._episodes.append(_Episode(env, first + begin))
            self._episodes[running].length += stop - begin
            self._set_final(running, torch.from_numpy(final).permute(2, 0, 1))
            self._running[env] = None if done[stop - 1] else running
            begin = stop
        self._filled[env] += count
        self._view = None

    def save(self, folder: Path) -> int:
        """Appends the steps since the last save (or load) to `folder`/replay.bin and returns the boundary: the total number of saved rows.

        The bytes have reached the disk when it returns. Data beyond the last boundary, left by a killed attempt, is deleted. A replay that
        was never saved or loaded overwrites the file.
        """
        self._file_end = append_blocks(folder / REPLAY_FILE, self._file_end, sum(self._saved), self._unsaved())
        self._saved = list(self._filled)
        return self.num_rows

    @staticmethod
    def load(folder: Path, rows: int, capacity: int, frame_size: int, device: torch.device | str = "cpu", num_envs: int = 1) -> "Replay":
        """The replay as it was when `save` returned `rows`. Steps that were saved later are ignored, and the next save deletes them.

        Raises DamagedReplay (a UserError) if the file is missing, damaged before that boundary, or has no such boundary.
        """
        replay = Replay(capacity, frame_size, device, num_envs)
        for block, end in read_blocks(folder / REPLAY_FILE, rows, frame_size):
            replay._append(block)
            replay._file_end = end
        replay._saved = list(replay._filled)
        return replay

    def _unsaved(self) -> Iterator[Block]:
        for env, (first, stop) in enumerate(zip(self._saved, self._filled, strict=True)):
            if first == stop:
                continue
            frames, actions, rewards, ends, truncations = (column[first:stop, env].cpu() for column in self._columns)
            reached = [i for i, e in enumerate(self._episodes) if e.env == env and e.first + e.length > first]
            finals = self._finals[torch.tensor(reached, device=self.device)].cpu()
            yield Block(
                env,
                frames.permute(0, 2, 3, 1).contiguous().numpy(),
                actions.numpy(),
                rewards.numpy(),
                ends.numpy(),
                truncations.numpy(),
                finals.permute(0, 2, 3, 1).contiguous().numpy(),
            )

    def _set_final(self, episode: int, frame: Tensor) -> None:
        if episode >= len(self._finals):
            larger = self._empty_frames(len(self._finals) * 3 // 2)
            larger[: len(self._finals)] = self._finals
            self._finals = larger
        self._finals[episode] = frame.to(self.device)

    def _grow(self) -> None:
        storage = self._num_allocated * 3 // 2 + 1
        larger = self._allocate(storage)
        for old, new in zip(self._columns, larger, strict=True):
            new[: self._num_allocated] = old
        self._columns, self._num_allocated = larger, storage

    def _allocate(self, storage: int) -> tuple[Tensor, ...]:
        rows, dtypes = (storage, self.num_envs), (torch.int64, torch.float32, torch.bool, torch.bool)
        return (self._empty_frames(*rows), *(torch.zeros(rows, dtype=dtype, device=self.device) for dtype in dtypes))

    def _empty_frames(self, *rows: int) -> Tensor:
        return torch.empty((*rows, 3, self.frame_size, self.frame_size), dtype=torch.uint8, device=self.device)


def _tensors(block: Block) -> tuple[Tensor, ...]:
    frames = torch.from_numpy(block.frames).permute(0, 3, 1, 2)
    return (frames, *(torch.from_numpy(values) for values in (block.actions, block.rewards, block.ends, block.truncations)))


def _reached(done: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The steps without a further row for their next frame: those that end or truncate an episode, and the last one."""
    return np.append(done[:-1], np.ones_like(done[-1:]))
