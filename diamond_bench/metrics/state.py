"""The metric state: positions of a game's objects in imagined frames, read by the state probe, against the console's memory."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from diamond_bench.config import ExecutionConfig, ProbeConfig, RunConfig
from diamond_bench.envs.games import all_object_names, object_names
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import COPY_LAST, RECONSTRUCTED, STATE_PROBE
from diamond_bench.metrics.header import ROLLOUT_SIZES, SAMPLE_SIZES, Column, Figure, PerReference, pairs_compared
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.kinds import TrainStateProbe
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

_PAIRS_PER_SECOND = 2000.0


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter
    from diamond_bench.metrics.state_meter import make_state_meter
    from diamond_bench.metrics.state_scores import state_scores

    meter = make_state_meter(setting.inputs["state_probe"], setting.inputs["dataset"], setting.references)

    def measure(batch: "Batch") -> "Arrays":
        if batch.kind == "samples":
            return state_scores(meter, batch.frames, batch.play, batch.rows, batch.keys[:: batch.frames.shape[1]])
        if batch.kind != "rollouts" or batch.shown == "unrelated":
            return {}
        frames = batch.frames[:, :1] if batch.shown == "copy" else batch.frames  # one copied frame serves for the whole horizon
        return meter.errors(frames, batch.rows, batch.play.true.shape[1])

    return Meter(measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    from diamond_bench.metrics.state_meter import state_rows
    from diamond_bench.metrics.state_scores import state_score_rows

    rows = [
        row
        for shown, baseline in (("", ""), ("copy", COPY_LAST), ("true", STATE_PROBE), ("reconstructed", RECONSTRUCTED))
        if (found := {n: v for n, v in measured.shown(shown).items() if n.startswith("state_")})  # type: ignore[arg-type]
        for row in state_rows(found, baseline)
    ]
    return {"after": [*rows, *(state_score_rows(measured.samples) if measured.samples else ())]}


def _probe(config: RunConfig, execution: ExecutionConfig) -> tuple[str, Any]:
    return "train_state_probe", TrainStateProbe(config.probe, execution)


def _check(config: RunConfig) -> None:
    if config.data.dataset is not None:
        raise UserError(
            f"metrics: state needs the console's memory at each frame, and your dataset {config.data.dataset} is not known to hold it; "
            "collect a dataset here (data.dataset=null)",
            keys=("metrics", "data.dataset"),
        )
    object_names(config.game)


def _errors() -> dict[str, Column]:
    """Errors of all objects together, and of each object of any game."""
    bases = {
        "state_position_error": Column(
            "object position error",
            "lower",
            "pixels",
            low=0.0,
            definition="distance of the game's objects (ball, paddle, ...), as the state probe reads them in imagined frames, from where "
            "they truly are; of those that are in both ([state_probe.md](state_probe.md))",
        ),
        "state_presence_error": Column(
            "objects lost or made up",
            "lower",
            low=0.0,
            high=1.0,
            definition="share of objects that are in truth or in imagination alone",
        ),
    }
    found = {}
    for base, column in bases.items():
        for thing in ("", *all_object_names()):
            name = f"{base}_{thing}" if thing else base
            for part, words in {"": "", "_final": " at the last frame"}.items():
                found[f"{name}{part}"] = Column(
                    f"{column.title}{f', {thing}' if thing else ''}{words}",
                    column.better,
                    column.unit,
                    low=column.low,
                    high=column.high,
                    definition=column.definition,
                    listed_as=f"{base}{'_<object>' if thing else ''}{part}",
                    detail=bool(part),
                    headline=name == base and not part,
                    compared=base == "state_presence_error" and name == base and not part,
                    drawn=name == base and not part,
                    sizes=ROLLOUT_SIZES,
                )
    return found


METRIC = Metric(
    "state",
    {
        "state_crps": Column(
            "CRPS of object positions",
            "lower",
            "pixels",
            definition="of part 3, fair CRPS of the x and y of objects that are truly there and that the probe finds in all K samples, "
            "against the console's memory; mean over x and y, objects and frames, "
            "then starts ([state_probe.md](state_probe.md)); may be negative",
            sizes=SAMPLE_SIZES,
            values=PerReference("samples_state_crps", "sample_episodes"),
        ),
        "state_scored_share": Column(
            "objects found in all sampled futures",
            unit="share",
            low=0.0,
            high=1.0,
            definition="share of the objects truly there that `state_crps` takes, because the probe finds them in all K samples",
            sizes=SAMPLE_SIZES,
        ),
        "state_rank_deviation": Column(
            "ranks of object positions, distance from uniform",
            "lower",
            "share",
            low=0.0,
            high=1.0,
            definition="`rank_deviation` of x and y of the objects that the probe finds in all K samples and in the true frame. All starts "
            "weigh the same",
            sizes=SAMPLE_SIZES,
            own_starts=True,
        ),
        **_errors(),
        "probe_presence_accuracy": Column(
            "presence read rightly by the state probe",
            unit="share",
            low=0.0,
            high=1.0,
            definition="of the state probe on held-out true frames: share of objects whose presence it reads rightly",
            sizes=ROLLOUT_SIZES,
        ),
        "probe_position_median": Column(
            "state probe's position error, median",
            unit="pixels",
            low=0.0,
            definition="of the state probe on held-out true frames: half of its position errors are below",
            sizes=ROLLOUT_SIZES,
        ),
        "probe_position_95": Column(
            "state probe's position error, 95% below",
            unit="pixels",
            low=0.0,
            definition="of the state probe on held-out true frames: 95% of its position errors are below",
            sizes=ROLLOUT_SIZES,
        ),
    },
    _open,
    _reduce,
    play=("rollouts", "samples"),
    spares=("samples",),
    inputs={"state_probe": _probe},
    reads=tuple(f"probe.{f.name}" for f in fields(ProbeConfig)),
    check=_check,
    seconds=lambda evaluation: pairs_compared(evaluation) / _PAIRS_PER_SECOND,
    figures=(
        Figure("objects", "Objects, as the state probe reads them", "state", column="state_position_error"),
        Figure(
            "ranks",
            "Ranks of true object positions among samples",
            "ranks-state",
            "samples_state_ranks",
            "state_rank_deviation",
            "x and y of objects as the state probe reads them, where it finds them in all samples and the true frame",
        ),
    ),
)
