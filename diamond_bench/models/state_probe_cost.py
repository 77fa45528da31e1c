"""The cost of state_probe.py, without torch."""

from diamond_bench.models.cost import Cost, convolution
from diamond_bench.spaces import FrameSpec

DILATIONS = (1, 2, 4)
"""Dilations of the 3 x 3 layers at half the frame's resolution, which follow a 5 x 5 layer that reduces to it."""
INPUTS = 5
"""Channels of its input: the frame, and the position of each pixel."""


def state_probe_cost(num_objects: int, channels: int, frames: FrameSpec) -> Cost:
    """One forward pass of `StateProbe` for one frame."""
    cells = -(-frames.height // 2) * -(-frames.width // 2)
    deeper = convolution(channels, channels, 3, cells)
    parts = convolution(INPUTS, channels, 5, cells) + convolution(channels, num_objects, 1, cells) + Cost(num_objects)
    for _ in DILATIONS:
        parts += deeper
    return parts
