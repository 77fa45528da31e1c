"""Proper scores of sampled futures: the energy score of frames and of LPIPS' features, CRPS and ranks of block-mean luminance."""

from typing import TYPE_CHECKING

from diamond_bench.metrics.header import SAMPLE_SIZES, Column, Figure, PerReference
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter
    from diamond_bench.metrics.sample_scores import sample_scores

    lpips = setting.lpips("alex") if "lpips" in setting.evaluation.metrics else None

    def measure(batch: "Batch") -> "Arrays":
        if batch.kind != "samples":
            return {}
        last = batch.play.frames[:, batch.play.context - 1]
        return sample_scores(batch.frames, batch.play.true, last, batch.keys[:: batch.frames.shape[1]], lpips)

    return Meter(measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    from diamond_bench.metrics.sample_scores import score_rows

    return {"samples": score_rows(measured.samples)}


def _values(name: str) -> PerReference:
    return PerReference(f"samples_{name}", "sample_episodes")


METRIC = Metric(
    "proper_scores",
    {
        "energy_score": Column(
            "energy score of sampled futures",
            "lower",
            "RMS pixel error",
            definition="of part 3, fair energy score of the K futures x of a start: mean of |x_i - y| minus half the mean of "
            "|x_i - x_j| over i ≠ j, with RMS pixel error as the distance; mean over frames, then starts (may be negative)",
            copyable=True,
            sizes=SAMPLE_SIZES,
            values=_values("energy_score"),
        ),
        "energy_score_lpips": Column(
            "energy score of sampled futures, sqrt(LPIPS)",
            "lower",
            definition="the same with sqrt(LPIPS) as the distance, which is the Euclidean distance of LPIPS' weighted features",
            copyable=True,
            sizes=SAMPLE_SIZES,
            needs=("lpips",),
            values=_values("energy_score_lpips"),
        ),
        "luminance_crps": Column(
            "CRPS of block-mean luminance",
            "lower",
            "grey level, 0 to 1",
            definition="fair CRPS (the energy score of a scalar) of the mean luminance of each block of a 4 x 4 grid",
            sizes=SAMPLE_SIZES,
            values=_values("luminance_crps"),
        ),
        "rank_deviation": Column(
            "ranks of block-mean luminance, distance from uniform",
            "lower",
            "share",
            low=0.0,
            high=1.0,
            definition="total variation distance from uniform of the true block mean's rank among the K samples; equal values are "
            "ranked at random. Compare it with `uniform-ranks`: chance alone keeps it above 0",
            sizes=SAMPLE_SIZES,
        ),
    },
    _open,
    _reduce,
    asked=False,
    play=("samples",),
    figures=(
        Figure(
            "ranks",
            "Ranks of the truth among samples",
            "ranks",
            "samples_ranks",
            "rank_deviation",
            "mean luminance of 16 blocks of each sampled frame",
        ),
    ),
)
