"""Sharpness and noise of imagined frames compared with true ones."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from diamond_bench.metrics.baselines import RECONSTRUCTED
from diamond_bench.metrics.header import ROLLOUT_SIZES, Column
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting


def _open(setting: "Setting") -> "Meter":
    import torch

    from analysis.pixels import noise_level, sharpness
    from diamond_bench.metrics.frames import measure_pairs
    from diamond_bench.metrics.play import Meter, unit

    functions = {"sharpness": sharpness, "noise": noise_level}
    scores = {"sharpness": lambda frames, true: sharpness(unit(frames)), "noise": lambda frames, true: noise_level(unit(frames))}

    def measure(batch: "Batch") -> "Arrays":
        if batch.shown == "true":
            of_rows = {name: [function(unit(row)) for row in batch.frames] for name, function in functions.items()}
            return {name: torch.stack(rows).double().cpu().numpy() for name, rows in of_rows.items()}
        return measure_pairs(scores, batch)

    return Meter(measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    """The ratio of mean sharpness to that of true frames, and the difference of mean noise."""
    true = measured.shown("true")
    whole = float(true["sharpness"].mean())

    def rows(found: Mapping[str, NDArray[Any]], baseline: str = "") -> list[Row]:
        ratio = float(found["sharpness"].mean()) / whole if whole > 0 else math.nan
        excess = float(found["noise"].mean() - true["noise"].mean())
        return [Row("sharpness_ratio", ratio, baseline=baseline), Row("noise_excess", excess, baseline=baseline)]

    compressed = measured.shown("reconstructed")
    return {"rollouts": rows(measured.rollouts)} | ({"reconstructed": rows(compressed, RECONSTRUCTED)} if compressed else {})


METRIC = Metric(
    "sharpness",
    {
        "sharpness_ratio": Column(
            "sharpness, imagined / true",
            "near 1",
            low=0.0,
            definition="mean squared gradient of luminance, imagined over true: an edge blurred over w pixels gives 1 / w. Noise raises "
            "it, so read it with `noise_excess`",
            headline=True,
            compared=True,
            drawn=True,
            sizes=ROLLOUT_SIZES,
        ),
        "noise_excess": Column(
            "noise, imagined minus true",
            unit="grey level, 0 to 1",
            definition="standard deviation of the noise in luminance, imagined minus true frames, estimated with Immerkær's mask (1996) "
            "from the median response, so that edges do not count; best at 0",
            sizes=ROLLOUT_SIZES,
        ),
    },
    _open,
    _reduce,
    asked=False,
    play=("rollouts", "samples"),
    spares=("samples",),
)
