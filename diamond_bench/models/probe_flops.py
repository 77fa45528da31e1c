"""What the state probe costs, without torch."""

LAYERS = 3
"""3 x 3 layers at half the frame's resolution, after one of 5 x 5 that goes down to it (models/state_probe.py)."""


def probe_flops(num_objects: int, channels: int, shape: tuple[int, int]) -> float:
    """Floating-point operations of one frame of `shape` (h, w) through the probe: two a multiplication of its convolutions."""
    cells = -(-shape[0] // 2) * -(-shape[1] // 2)
    return 2.0 * cells * channels * (5 * 25 + LAYERS * 9 * channels + num_objects)
