"""Imagining reference trajectories. Each has its own noise, so that no result depends on the rest of its batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.diffusion.samplers import trajectory_noise
from diamond_bench.metrics.play import Key, Tick, WindowBatch
from diamond_bench.worlds.contract import Draw, WorldModel, imagined_frames


def seeded_draw(keys: Sequence[Key], device: torch.device) -> Draw:
    """Noise for one batch: row i comes from a generator with the seed keys[i] alone."""
    return drawn_from(row_generators(keys, device))


def row_generators(keys: Sequence[Key], device: torch.device) -> list[torch.Generator]:
    """A generator per row, with its seed."""
    seeds = [int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)) for key in keys]
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def drawn_from(generators: Sequence[torch.Generator]) -> Draw:
    """Noise for one batch: row i comes from generators[i] alone."""
    return lambda like: trajectory_noise(generators, tuple(like.shape[1:]), generators[0].device)()


def imagine(world: WorldModel, play: WindowBatch, keys: Sequence[Key], tick: Tick = lambda: None) -> Tensor:
    """Imagines the frames after each row's context, with the true actions, in one batch. (n, horizon, 3, h, w) uint8.

    `keys` are the seeds of each row's noise. `tick` is called after every imagined frame. Frames lie on the 8-bit grid, so converting them
    to bytes is exact.
    """
    past, draw = from_bytes(play.frames[:, : play.context]), seeded_draw(keys, play.frames.device)
    imagined = torch.empty_like(play.true)
    for t, frame in enumerate(imagined_frames(world, past, play.actions[:, :-1], draw, play.origin)):
        imagined[:, t] = to_bytes(frame)
        tick()
    return imagined
