"""SSIM: structural similarity (Wang et al. 2004)."""

from typing import TYPE_CHECKING

from diamond_bench.metrics.frames import of_frames
from diamond_bench.metrics.header import Column

if TYPE_CHECKING:
    from torch import Tensor


def similarity(imagined: "Tensor", true: "Tensor") -> "Tensor":
    """SSIM of frames (n, 3, h, w) uint8 -> (n,), at most 1."""
    from analysis.pixels import ssim
    from diamond_bench.metrics.play import unit

    return ssim(unit(imagined), unit(true))


METRIC = of_frames(
    "ssim",
    Column(
        "SSIM",
        "higher",
        low=-1.0,
        high=1.0,
        definition="structural similarity: Gaussian window 11, sigma 1.5, each colour on its own",
        headline=True,
        compared=True,
        drawn=True,
    ),
    similarity,
    pairs_per_second=1400.0,
)
