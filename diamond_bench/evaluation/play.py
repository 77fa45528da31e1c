"""The source of an evaluation's frames: a world model imagines them, or another evaluation with different metrics kept them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diamond_bench.evaluation.rollouts import imagine
from diamond_bench.metrics.header import Play
from diamond_bench.metrics.play import Key, Tick, WindowBatch
from diamond_bench.store.claims import KEPT_FRAMES
from diamond_bench.store.twins import Twin
from diamond_bench.worlds.contract import WorldModel

_KINDS: tuple[Play, ...] = ("rollouts", "one_step", "samples", "forks", "altered")
KEPT_FILES: Mapping[Play, str] = dict(zip(_KINDS, KEPT_FRAMES, strict=True))
"""The files of evaluation.keep_frames: uint8 (rows, [K,] T, 3, h, w)."""


class Frames(Protocol):
    """The frames of one kind of play."""

    def __call__(self, rows: range, play: WindowBatch, keys: Sequence[Key]) -> Tensor:
        """The frames that follow the context of the n rows of `play`, with the noise of `keys`, (n, T, 3, h, w) uint8 on its device.

        `rows` are the numbers of the references, windows or forks. For samples and forks, `play` and `keys` have K rows for each.
        """
        ...


@dataclass(frozen=True)
class Imagined:
    """Frames that a world model imagines."""

    world: WorldModel
    tick: Tick

    def __call__(self, rows: range, play: WindowBatch, keys: Sequence[Key]) -> Tensor:
        return imagine(self.world, play, keys, self.tick)


@dataclass(frozen=True)
class Kept:
    """Frames read from a file of KEPT_FILES, whose checksum was verified."""

    file: Path

    def __call__(self, rows: range, play: WindowBatch, keys: Sequence[Key]) -> Tensor:
        frames = np.load(self.file, mmap_mode="r")[rows.start : rows.stop]
        return torch.from_numpy(np.array(frames)).to(play.frames.device).reshape(play.true.shape)


def kept_in(twin: Twin, kinds: Collection[Play]) -> dict[Play, Kept]:
    """The kinds of play among `kinds` for which a finished evaluation kept its frames."""
    return {kind: Kept(twin.files[KEPT_FILES[kind]]) for kind in kinds if KEPT_FILES[kind] in twin.files}
