"""The metric modes: samples of a synthetic game's next frame against its true distribution, which is known."""

from typing import TYPE_CHECKING

from diamond_bench.config import RunConfig
from diamond_bench.envs.family import Truth
from diamond_bench.envs.games import games_with, truth
from diamond_bench.errors import UserError
from diamond_bench.metrics.header import Column, Figure, PerReference
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

THRESHOLDS = {"mode_within_16th": 1 / 16, "mode_within_8th": 1 / 8}
"""Columns with the share of samples within a distance of a mode, in units of the distance between the modes."""
_SIZES = ("num_one_step", "num_samples")


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.forks import measure_forks
    from diamond_bench.metrics.play import Meter

    forks = setting.forks
    assert forks is not None

    def measure(batch: "Batch") -> "Arrays":
        if batch.kind != "forks":
            return {}
        return measure_forks(forks, batch.rows, batch.frames[:, :, 0].cpu().numpy(), batch.keys)

    return Meter(measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    from diamond_bench.metrics.forks import mode_rows

    return {"after": mode_rows(measured.forks, THRESHOLDS)}


def _check(config: RunConfig) -> None:
    known = truth(config.game) if config.data.dataset is None else Truth()
    if known.next_frames is None:
        whose = config.game if config.data.dataset is None else f"your dataset {config.data.dataset}"
        games = ",".join(games_with(lambda truth: truth.next_frames))
        raise UserError(
            f"metrics: modes needs the true distribution of the next frame, which is not known for {whose}, only for games=[{games}]",
            keys=("metrics",),
        )
    if config.env.minority_share == 0:
        raise UserError(
            "env.minority_share=0.0: the metric modes needs frames that can go two ways; set it above 0", keys=("env.minority_share",)
        )
    if config.data.reference_context < known.past_frames:
        raise UserError(
            f"data.reference_context={config.data.reference_context}: the state of {config.game} is read from {known.past_frames} "
            f"frames; raise it",
            keys=("data.reference_context",),
        )


METRIC = Metric(
    "modes",
    {
        "mode_cramer_distance": Column(
            "Cramér distance to the true modes",
            "lower",
            definition="Cramér distance of the samples of the next frame, on the axis between its two modes, to the true distribution "
            "([synthetic.md](synthetic.md))",
            headline=True,
            compared=True,
            sizes=_SIZES,
            values=PerReference("modes_cramer", "fork_episodes"),
        ),
        "mode_energy_distance": Column(
            "energy distance to the true next frames",
            "lower",
            "distance of the modes",
            definition="energy distance of the samples of the next frame to the true distribution",
            compared=True,
            sizes=_SIZES,
            values=PerReference("modes_energy", "fork_episodes"),
        ),
        "mode_minority_share": Column(
            "samples nearest to the less likely mode",
            unit="share",
            low=0.0,
            high=1.0,
            definition="share of samples nearest to the less likely mode",
            headline=True,
            sizes=_SIZES,
        ),
        "mode_off_axis": Column(
            "distance from the axis of the modes (RMS)",
            "lower",
            "distance of the modes",
            low=0.0,
            definition="RMS distance of samples from the axis through the two modes",
            headline=True,
            compared=True,
            sizes=_SIZES,
        ),
        "mode_commitment": Column(
            "commitment to a mode",
            "higher",
            high=1.0,
            definition="1 where all samples lie at a mode, 0 where they lie at the mean of the modes",
            compared=True,
            sizes=_SIZES,
        ),
        **{
            name: Column(
                f"samples within 1/{round(1 / share)} of a mode",
                "higher",
                "share",
                low=0.0,
                high=1.0,
                definition="share of samples that lie at most this part of the distance between the modes from one of them",
                sizes=_SIZES,
            )
            for name, share in THRESHOLDS.items()
        },
        "mode_windows": Column("windows of the modes", definition="one-step windows at which the game can go two ways", sizes=_SIZES),
    },
    _open,
    _reduce,
    play=("forks",),
    check=_check,
    figures=(
        Figure("modes", "Modes of the next frame", "modes", column="mode_cramer_distance"),
        Figure("thresholds", "Samples near a true next frame", "thresholds", "modes_distances", "mode_windows"),
    ),
)
