"""Sampling all frames of a horizon together: at every step each frame has a noise level of its own (diffusion forcing, Chen et al. 2024).

Frame i has the level number m - i * delay at step m. With the delay 0 all frames have the same level. With a larger one the levels are a
staircase, and earlier frames are finished first.
"""

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diamond_bench.config import OpenLoopSampler
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.diffusion.samplers import Noise, start_scale
from diamond_bench.diffusion.schedules import sigmas

JointDenoise = Callable[[Tensor, Tensor, int], Tensor]
"""denoise(x, sigma, first) -> the clean frames, (b, k, 3, h, w), of the frames first, ..., first + k - 1 with the levels sigma, (k,)."""


def sample_together(denoise: JointDenoise, sampler: OpenLoopSampler, frames: int, noise: Noise) -> Iterator[Tensor]:
    """Samples frames (b, 3, h, w) in their order, each by Euler's method. A frame is yielded before the next step begins.

    Args:
        denoise: called once per step, for the frames that have begun and are not finished.
        sampler: its settings.
        frames: T, their number.
        noise: fresh N(0, 1) of the shape of a frame, called once per frame, when the frame begins.
    """
    levels: list[float] = sigmas(sampler).tolist()
    behind = min(sampler.steps_behind, sampler.num_steps)  # a longer wait leaves steps without a frame
    scale, every_call = start_scale(sampler, levels), sampler.quantize == "every_call"
    active: deque[tuple[int, Tensor]] = deque()  # step of each frame, and the frame
    first = step = 0
    while first < frames:
        while first + len(active) < frames and step >= (first + len(active)) * behind:
            active.append((0, noise() * scale))
        x = torch.stack([frame for _, frame in active], dim=1)
        sigma, change = (
            torch.tensor(values, dtype=torch.float32, device=x.device)
            for values in zip(*((levels[k], levels[k + 1] - levels[k]) for k, _ in active), strict=True)
        )
        clean = denoise(x, sigma, first)
        if every_call:
            clean = quantize(clean, sampler.quantization)
        wide = (len(active), 1, 1, 1)
        x = x + (x - clean) / sigma.view(wide) * change.view(wide)
        active = deque((k + 1, frame) for (k, _), frame in zip(active, x.unbind(1), strict=True))
        while active and active[0][0] == sampler.num_steps:
            # Euler's last step leads to the clean frame. Truncation would turn its rounding errors into whole levels.
            yield quantize(active.popleft()[1], "round" if every_call else sampler.quantization)
            first += 1
        step += 1
