"""Imagining reference trajectories: each with noise of its own, so that no result depends on which others share its batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diamond_bench.config import Sampler
from diamond_bench.data.references import Windows
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.diffusion.samplers import Noise, trajectory_noise
from diamond_bench.world_model import WorldModel

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

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def true(self) -> Tensor:
        """What came after the context, (n, horizon, 3, h, w) uint8."""
        return self.frames[:, self.context :]

    def repeated(self, times: int) -> "Stretch":
        """Every row `times` times, side by side."""
        return Stretch(self.frames.repeat_interleave(times, 0), self.actions.repeat_interleave(times, 0), self.context)


def stretch(windows: Windows, rows: Sequence[int], horizon: int) -> Stretch:
    """The chosen windows, cut to `horizon` frames after their context."""
    which = torch.tensor(rows, dtype=torch.int64, device=windows.first.device)
    stop = windows.context + horizon
    return Stretch(windows.frames(which)[:, :stop], windows.actions(which)[:, :stop], windows.context)


def seeded_noise(keys: Sequence[Key], frame: torch.Size, device: torch.device) -> Noise:
    """Noise for one batch: row i comes from a generator seeded by keys[i] alone."""
    seeds = [int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)) for key in keys]
    return trajectory_noise([torch.Generator(device).manual_seed(seed) for seed in seeds], tuple(frame), device)


def imagine(model: WorldModel, play: Stretch, sampler: Sampler, keys: Sequence[Key], tick: Tick = lambda: None) -> Tensor:
    """Imagines what came after each row's context under its true actions, in one batch. (n, horizon, 3, h, w) uint8.

    `keys` seed each row's noise; `tick` is called after every imagined frame. Frames already lie on the 8-bit grid, so bytes lose nothing.
    """
    first = play.context - model.num_frames
    past = from_bytes(play.frames[:, first : play.context])
    noise = seeded_noise(keys, past.shape[2:], past.device)
    imagined = torch.empty_like(play.true)
    for t, frame in enumerate(model.imagine(past, play.actions[:, first:-1], sampler, noise)):
        imagined[:, t] = to_bytes(frame)
        tick()
    return imagined


def unit(frames: Tensor) -> Tensor:
    """Bytes as floats in [0, 1]."""
    return frames.float() / 255
