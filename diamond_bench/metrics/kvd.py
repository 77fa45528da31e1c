"""KVD alone, without FVD: unbiased, so for any number of clips."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from diamond_bench.config import RunConfig
from diamond_bench.metrics import fvd
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Measured, Meter, Setting


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter

    return Meter(lambda batch: {}) if "fvd" in setting.evaluation.metrics else fvd.open_clips(setting)


def _reduce(measured: "Measured") -> Mapping[str, list[Row]]:
    from analysis.video_distance import kernel_interval, kernel_video_distance

    if "fvd" in measured.evaluation.metrics:
        return {}  # fvd has the same rows
    return {"after": [*fvd.distance_rows("kvd", kernel_video_distance, kernel_interval, measured), *fvd.size_rows(measured)]}


def _check(config: RunConfig) -> None:
    fvd.check_clips(config, "KVD")


METRIC = replace(
    fvd.METRIC,
    name="kvd",
    columns=fvd.KVD_COLUMNS,
    open=_open,
    reduce=_reduce,
    check=_check,
    seconds=lambda evaluation: 0.0 if "fvd" in evaluation.metrics else fvd.clip_seconds(evaluation),
    part_bytes=lambda evaluation: 0.0 if "fvd" in evaluation.metrics else fvd.METRIC.part_bytes(evaluation),
)
