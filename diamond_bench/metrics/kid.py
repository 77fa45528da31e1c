"""KID alone, without FID: unbiased, so for any number of images."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from diamond_bench.config import RunConfig
from diamond_bench.metrics import fid
from diamond_bench.metrics.baselines import RECONSTRUCTED, TRUE_FRAMES
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Measured, Meter, Setting


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter

    return Meter(lambda batch: {}) if "fid" in setting.evaluation.metrics else fid.METRIC.open(setting)


def _reduce(measured: "Measured") -> Mapping[str, list[Row]]:
    from analysis.frechet import kernel_distance

    if "fid" in measured.evaluation.metrics:
        return {}  # fid has the same rows
    true, other = fid.load_features(measured.inputs["true_features"])
    sides = {"": measured.rollouts["features"], TRUE_FRAMES: other}
    if "features" in (compressed := measured.shown("reconstructed")):
        sides[RECONSTRUCTED] = compressed["features"]
    rows = [
        Row("kid", kernel_distance(features, true, seed=measured.evaluation.seed)[0], baseline=name) for name, features in sides.items()
    ]
    return {"after": [*rows, Row("fid_images", float(len(true)))]}


def _check(config: RunConfig) -> None:
    fid.check_images(config, "kid", "KID")


METRIC = replace(
    fid.METRIC,
    name="kid",
    columns={name: fid.METRIC.columns[name] for name in ("kid", "fid_images")},
    open=_open,
    reduce=_reduce,
    check=_check,
    seconds=lambda evaluation: 0.0 if "fid" in evaluation.metrics else fid.METRIC.seconds(evaluation),
    part_bytes=lambda evaluation: 0.0 if "fid" in evaluation.metrics else fid.METRIC.part_bytes(evaluation),
)
