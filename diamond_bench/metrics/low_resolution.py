"""Drift at low resolution: the error that remains when frames lose their details.

It adds the baseline `copy-last-frame-upsampled`: the copied last frame without its details, one step ahead.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from diamond_bench.metrics.baselines import COPY_UPSAMPLED
from diamond_bench.metrics.frames import of_frames
from diamond_bench.metrics.header import Column
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from torch import Tensor

    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

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


def upsampled(frames: "Tensor") -> "Tensor":
    """Frames (n, 3, h, w) uint8 whose height and width are divided by FACTOR, rounded to bytes, and enlarged again: bicubic, with
    antialiasing, as a cascade does (`CascadeWorld.shrunk`, `CascadeWorld.enlarged`)."""
    from torch.nn import functional as F

    from diamond_bench.diffusion.quantization import from_bytes, quantize, to_bytes

    sides = [max(1, side // FACTOR) for side in frames.shape[-2:]]
    low = quantize(F.interpolate(from_bytes(frames), sides, mode="bicubic", antialias=True), "round")
    return to_bytes(F.interpolate(low, frames.shape[-2:], mode="bicubic"))


_DRIFT = of_frames(
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


def _open(setting: "Setting") -> "Meter":
    meter = _DRIFT.open(setting)
    return replace(meter, measure=lambda batch: meter.measure(batch) | _one_step(batch))


def _one_step(batch: "Batch") -> "Arrays":
    """Mean squared errors (n,) of the copied last frame without its details."""
    from diamond_bench.metrics.play import copy_last
    from diamond_bench.metrics.psnr import squared

    if batch.kind != "one_step":
        return {}
    return {"upsampled_mse": squared(upsampled(copy_last(batch.play)[:, 0]), batch.play.true[:, 0]).double().cpu().numpy()}


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    from diamond_bench.metrics.psnr import of_error

    found = {stage: list(rows) for stage, rows in _DRIFT.reduce(measured).items()}
    if "upsampled_mse" in measured.one_step:
        error = float(measured.one_step["upsampled_mse"].mean())
        found["after"] = [Row("one_step_psnr", of_error(error), baseline=COPY_UPSAMPLED)]
    return found


METRIC = replace(_DRIFT, open=_open, reduce=_reduce, play=(*_DRIFT.play, "one_step"), spares=(*_DRIFT.spares, "one_step"))
