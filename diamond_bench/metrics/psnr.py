"""PSNR of the mean squared error pooled over all frames. Every evaluation measures the squared error."""

from typing import TYPE_CHECKING

from diamond_bench.metrics.frames import of_frames
from diamond_bench.metrics.header import Column

if TYPE_CHECKING:
    from torch import Tensor


def squared(imagined: "Tensor", true: "Tensor") -> "Tensor":
    """Mean squared error of frames (n, 3, h, w) uint8, as values in [0, 1] -> (n,)."""
    from analysis.pixels import squared_error
    from diamond_bench.metrics.play import unit

    return squared_error(unit(imagined), unit(true))


def of_error(mean: float) -> float:
    """PSNR in dB of a mean squared error of values in [0, 1]."""
    from analysis.pixels import psnr

    return float(psnr(mean))


METRIC = of_frames(
    "psnr",
    Column(
        "PSNR",
        "higher",
        "dB",
        definition="10 log10(1 / MSE) of the MSE pooled over all frames (still frames make it infinite one by one)",
        headline=True,
        compared=True,
        drawn=True,
    ),
    squared,
    of_mean=of_error,
    array="mse",
    always=True,
)
