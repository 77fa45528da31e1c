"""The cost of pose_probe.py, without torch."""

from diamond_bench.models.cost import Cost, convolution, linear
from diamond_bench.spaces import FrameSpec

HIDDEN = 128
"""Width of the layer after the convolutions."""
OUTPUTS = 4
"""x, y, and the cosine and sine of the angle."""


def layers(channels: int) -> tuple[tuple[int, int, int], ...]:
    """(channels before, channels after, side of the kernel) of each convolution. Each halves both sides of its input, rounded up."""
    return (3, channels, 5), (channels, 2 * channels, 3), (2 * channels, 2 * channels, 3)


def pose_probe_cost(channels: int, frames: FrameSpec) -> Cost:
    """One forward pass of `PoseProbe` for one frame."""
    height, width, parts = frames.height, frames.width, Cost()
    for before, after, side in layers(channels):
        height, width = -(-height // 2), -(-width // 2)
        parts += convolution(before, after, side, height * width)
    return parts + linear(2 * channels * height * width, HIDDEN) + linear(HIDDEN, OUTPUTS)
