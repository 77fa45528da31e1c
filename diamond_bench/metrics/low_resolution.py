"""Drift at low resolution: the error that remains when frames lose their details."""

from typing import TYPE_CHECKING

from diamond_bench.metrics.frames import of_frames
from diamond_bench.metrics.header import Column

if TYPE_CHECKING:
    from torch import Tensor

FACTOR = 4
"""Height and width of a frame, divided by those at low resolution."""


def low_resolution_drift(imagined: "Tensor", true: "Tensor") -> "Tensor":
    """Mean absolute error in [0, 1] of frames (n, 3, h, w) uint8 whose height and width are divided by FACTOR -> (n,)."""
    from analysis.pixels import absolute_error

    return absolute_error(_blocks(imagined), _blocks(true))


def _blocks(frames: "Tensor") -> "Tensor":
    """Means of blocks of pixels, in [0, 1]. They are FACTOR x FACTOR pixels large if FACTOR divides the sides of the frames."""
    from torch.nn import functional as F

    sides = [max(1, side // FACTOR) for side in frames.shape[-2:]]
    return F.interpolate(frames.float(), sides, mode="area") / 255


METRIC = of_frames(
    "low_resolution_drift",
    Column(
        f"drift of {FACTOR} x {FACTOR} blocks",
        "lower",
        "pixel error",
        low=0.0,
        definition=f"drift of frames whose pixels are means of {FACTOR} x {FACTOR} blocks: drift that is not in the details",
        compared=True,
        copyable=True,
    ),
    low_resolution_drift,
    curve="Drift at low resolution",
)
