"""Imagining reference trajectories: each with noise of its own, so that no result depends on which others share its batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diamond_bench.data.references import Windows
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.diffusion.samplers import trajectory_noise
from diamond_bench.worlds.contract import Draw, WorldModel, imagined_frames

Key = tuple[int, ...]
"""What seeds the noise of one trajectory."""
ROLLOUT_STREAM, ONE_STEP_STREAM, SAMPLES_STREAM, FID_STREAM, MODES_STREAM = range(5)
"""Second entry of every key and seed of an evaluation: each purpose has its own stream of random numbers."""
Tick = Callable[[], None]


@dataclass(frozen=True)
class Stretch:
    """A batch of true play on the device: `context` frames the model may see, then those it is to imagine."""

    frames: Tensor
    """(n, context + horizon, 3, h, w) uint8."""
    actions: Tensor
    """(n, context + horizon) int64; action t is taken after frame t."""
    context: int
    origin: Tensor | None = None
    """(episode, step) of each row's last context frame in the play that it is a stretch of, (n, 2) int64; None where nobody says it."""

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def true(self) -> Tensor:
        """What came after the context, (n, horizon, 3, h, w) uint8."""
        return self.frames[:, self.context :]

    def repeated(self, times: int) -> "Stretch":
        """Every row `times` times, side by side."""
        origin = None if self.origin is None else self.origin.repeat_interleave(times, 0)
        return Stretch(self.frames.repeat_interleave(times, 0), self.actions.repeat_interleave(times, 0), self.context, origin)


def stretch(windows: Windows, rows: Sequence[int], horizon: int) -> Stretch:
    """The chosen windows, cut to `horizon` frames after their context."""
    which = torch.tensor(rows, dtype=torch.int64, device=windows.first.device)
    stop, last = windows.context + horizon, windows.first[which] + windows.context - 1
    episode = torch.searchsorted(windows.episodes.starts, last, right=True) - 1
    origin = torch.stack((episode, last - windows.episodes.starts[episode]), dim=1)
    return Stretch(windows.frames(which)[:, :stop], windows.actions(which)[:, :stop], windows.context, origin)


def seeded_draw(keys: Sequence[Key], device: torch.device) -> Draw:
    """Noise for one batch: row i comes from a generator seeded by keys[i] alone."""
    seeds = [int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)) for key in keys]
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    return lambda like: trajectory_noise(generators, tuple(like.shape[1:]), device)()


def imagine(world: WorldModel, play: Stretch, keys: Sequence[Key], tick: Tick = lambda: None) -> Tensor:
    """Imagines what came after each row's context under its true actions, in one batch. (n, horizon, 3, h, w) uint8.

    `keys` seed each row's noise; `tick` is called after every imagined frame. Frames already lie on the 8-bit grid, so bytes lose nothing.
    """
    past, draw = from_bytes(play.frames[:, : play.context]), seeded_draw(keys, play.frames.device)
    imagined = torch.empty_like(play.true)
    for t, frame in enumerate(imagined_frames(world, past, play.actions[:, :-1], draw, play.origin)):
        imagined[:, t] = to_bytes(frame)
        tick()
    return imagined


def unit(frames: Tensor) -> Tensor:
    """Bytes as floats in [0, 1]."""
    return frames.float() / 255
