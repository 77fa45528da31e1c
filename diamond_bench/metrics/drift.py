"""Drift: the mean absolute pixel error. Every evaluation measures it, for its figure and for the sanity gate of games without chance."""

from typing import TYPE_CHECKING

from diamond_bench.metrics.frames import of_frames
from diamond_bench.metrics.header import Column

if TYPE_CHECKING:
    from torch import Tensor


def drift(imagined: "Tensor", true: "Tensor") -> "Tensor":
    """Mean absolute error in [0, 1] of frames (n, 3, h, w) uint8 -> (n,)."""
    from analysis.pixels import absolute_error
    from diamond_bench.metrics.play import unit

    return absolute_error(unit(imagined), unit(true))


METRIC = of_frames(
    "drift",
    Column(
        "drift",
        "lower",
        "pixel error",
        low=0.0,
        definition="mean absolute pixel error",
        headline=True,
        compared=True,
        drawn=True,
        copyable=True,
    ),
    drift,
    always=True,
    curve="Drift",
)
