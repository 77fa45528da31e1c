"""The cost of inverse_dynamics.py, without torch."""

from diamond_bench.models.cost import Cost, convolution, linear
from diamond_bench.spaces import FrameSpec

HIDDEN = 128
"""Width of the layer after the convolutions."""
BOTH, FIRST = 9, 3
"""Channels of the inputs of its two parts: both frames and their difference, and the first frame."""


def layers(inputs: int, channels: int) -> tuple[tuple[int, int, int], ...]:
    """(channels before, channels after, side of the kernel) of each convolution. Each halves both sides of its input, rounded up."""
    return (inputs, channels, 5), (channels, 2 * channels, 3), (2 * channels, 2 * channels, 3)


def inverse_dynamics_cost(channels: int, frames: FrameSpec, width: int) -> Cost:
    """One forward pass of both parts of `InverseDynamics` for one pair of frames. `width`: of its output."""
    parts = Cost()
    for inputs in (BOTH, FIRST):
        height, wide = frames.sides
        for before, after, side in layers(inputs, channels):
            height, wide = -(-height // 2), -(-wide // 2)
            parts += convolution(before, after, side, height * wide)
        parts += linear(2 * channels * height * wide, HIDDEN) + linear(HIDDEN, width)
    return parts
