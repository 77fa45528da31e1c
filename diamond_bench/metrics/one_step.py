"""PSNR of one frame predicted from true frames: the denoiser's error before it is fed back."""

from typing import TYPE_CHECKING

from diamond_bench.metrics.baselines import COPY_LAST
from diamond_bench.metrics.header import Column
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting


def _measure(batch: "Batch") -> "Arrays":
    """Mean squared errors (n,) of the predicted frame and of the copied last frame."""
    from analysis.pixels import squared_error
    from diamond_bench.metrics.play import copy_last, unit

    if batch.kind != "one_step":
        return {}
    pairs = {"mse": batch.frames, "copy_mse": copy_last(batch.play)}
    return {name: squared_error(unit(frames[:, 0]), unit(batch.play.true[:, 0])).double().cpu().numpy() for name, frames in pairs.items()}


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter

    return Meter(_measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    """PSNR of the squared error pooled over all windows."""
    from diamond_bench.metrics.psnr import of_error

    errors = measured.one_step
    rows = [
        Row("one_step_psnr", of_error(float(errors["mse"].mean()))),
        Row("one_step_psnr", of_error(float(errors["copy_mse"].mean())), baseline=COPY_LAST),
    ]
    return {"one_step": rows}


METRIC = Metric(
    "one_step",
    {
        "one_step_psnr": Column(
            "PSNR one step ahead",
            "higher",
            "dB",
            definition="part 2: PSNR of the MSE pooled over all windows",
            headline=True,
            compared=True,
            drawn=True,
            sizes=("num_one_step",),
        )
    },
    _open,
    _reduce,
    asked=False,
    play=("one_step",),
)
