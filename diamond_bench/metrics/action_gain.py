"""Control: how much better a model predicts the true frames with the true actions than with random ones, under the same noise."""

import math
from typing import TYPE_CHECKING

from diamond_bench.config import RunConfig
from diamond_bench.errors import UserError
from diamond_bench.metrics.header import ALTERED_FRAMES, Column
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting


def _measure(batch: "Batch") -> "Arrays":
    """Mean squared errors (n, ALTERED_FRAMES) of the frames under the true actions, or under random ones."""
    from analysis.pixels import squared_error
    from diamond_bench.metrics.play import unit

    if batch.kind not in ("rollouts", "altered") or batch.shown:
        return {}
    frames, true = batch.frames[:, :ALTERED_FRAMES], batch.play.true[:, :ALTERED_FRAMES]
    errors = squared_error(unit(frames.flatten(0, 1)), unit(true.flatten(0, 1)))
    return {"action_error": errors.double().reshape(frames.shape[:2]).cpu().numpy()}


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter

    return Meter(_measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    from diamond_bench.metrics.psnr import of_error

    true, random = (arrays["action_error"] for arrays in (measured.rollouts, measured.altered))
    gain = 1 - float(true.mean()) / float(random.mean()) if random.any() else math.nan
    last = [float(errors[:, -1].mean()) for errors in (true, random)]
    difference = of_error(last[0]) - of_error(last[1]) if any(last) else math.nan
    return {"after": [Row("action_gain", gain), Row("action_delta_psnr", difference)]}


def check_horizon(config: RunConfig, metric: str) -> None:
    """Raises UserError if rollouts are shorter than altered play, which a metric compares."""
    evaluation = config.evaluation
    if evaluation.horizon < ALTERED_FRAMES:
        raise UserError(
            f"evaluation.horizon={evaluation.horizon}: the metric {metric} compares the first {ALTERED_FRAMES} imagined frames; set "
            f"evaluation.horizon={ALTERED_FRAMES} or more",
            keys=("evaluation.horizon",),
        )


_SIZES = ("num_trajectories",)
METRIC = Metric(
    "action_gain",
    {
        "action_gain": Column(
            "action gain",
            "higher",
            high=1.0,
            definition=f"1 - MSE with the true actions / MSE with uniformly random actions, both against the true frames, over the first "
            f"{ALTERED_FRAMES} imagined frames of all trajectories, with the same noise: 1 for a perfect model, 0 for one that ignores "
            "actions, below 0 for one that takes them wrongly",
            headline=True,
            compared=True,
            sizes=_SIZES,
        ),
        "action_delta_psnr": Column(
            "PSNR gained by the actions",
            "higher",
            "dB",
            definition=f"PSNR with the true actions minus PSNR with random ones at t = {ALTERED_FRAMES}, of the pooled MSE (delta PSNR of "
            "Genie, Bruce et al. 2024, appendix)",
            sizes=_SIZES,
        ),
    },
    _open,
    _reduce,
    play=("rollouts", "altered"),
    check=lambda config: check_horizon(config, "action_gain"),
)
