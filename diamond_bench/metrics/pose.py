"""The metric pose: where a player stands and looks in imagined frames of a first-person game, read by the state probe."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from diamond_bench.config import ExecutionConfig, ProbeConfig, RunConfig
from diamond_bench.envs.games import check_poses
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import COPY_LAST, RECONSTRUCTED, STATE_PROBE
from diamond_bench.metrics.header import ROLLOUT_SIZES, Column, Figure, pairs_compared
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.kinds import TrainStateProbe
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

_PAIRS_PER_SECOND = 2000.0


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter
    from diamond_bench.metrics.pose_meter import make_pose_meter

    meter = make_pose_meter(setting.inputs["state_probe"], setting.inputs["dataset"], setting.references)

    def measure(batch: "Batch") -> "Arrays":
        if batch.kind != "rollouts" or batch.shown == "unrelated":
            return {}
        frames = batch.frames[:, :1] if batch.shown == "copy" else batch.frames  # one copied frame serves for the whole horizon
        return meter.errors(frames, batch.rows, batch.play.true.shape[1])

    return Meter(measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    from diamond_bench.metrics.pose_meter import pose_rows

    shown = (("", ""), ("copy", COPY_LAST), ("true", STATE_PROBE), ("reconstructed", RECONSTRUCTED))
    arrays = ((measured.shown(one), baseline) for one, baseline in shown)  # type: ignore[arg-type]
    return {"after": [row for found, baseline in arrays if found for row in pose_rows(found, baseline)]}


def _probe(config: RunConfig, execution: ExecutionConfig) -> tuple[str, Any]:
    return "train_state_probe", TrainStateProbe(config.probe, execution)


def _check(config: RunConfig) -> None:
    if config.data.dataset is not None:
        raise UserError(
            f"metrics: pose needs the player's position at each frame, and your dataset {config.data.dataset} is not known to hold it; "
            "collect a dataset here (data.dataset=null)",
            keys=("metrics", "data.dataset"),
        )
    check_poses(config.game)


def _columns() -> dict[str, Column]:
    found: dict[str, Column] = {}
    for name, title, unit, what, high in (
        ("position", "position error", "map units", "distance of the position", None),
        ("angle", "angle error", "degrees", "difference of the direction of view", 180.0),
    ):
        for part, words in {"": "", "_final": " at the last frame"}.items():
            found[f"pose_{name}_error{part}"] = Column(
                f"player's {title}{words}",
                "lower",
                unit,
                of_game=name == "position",
                low=0.0,
                high=high,
                definition=f"{what} that the state probe reads in imagined frames from the true one ([worlds3d.md](worlds3d.md#pose))",
                listed_as=f"pose_{name}_error{part}",
                detail=bool(part),
                headline=not part,
                compared=not part,
                drawn=not part,
                sizes=ROLLOUT_SIZES,
            )
        for part, words in {"median": "half of its errors are below", "95": "95% of its errors are below"}.items():
            found[f"probe_pose_{name}_{part}"] = Column(
                f"state probe's {title}, {'median' if part == 'median' else '95% below'}",
                unit=unit,
                of_game=name == "position",
                low=0.0,
                high=high,
                definition=f"of the state probe on held-out true frames, {what}: {words}",
                sizes=ROLLOUT_SIZES,
            )
    return found


METRIC = Metric(
    "pose",
    _columns(),
    _open,
    _reduce,
    inputs={"state_probe": _probe},
    reads=tuple(f"probe.{f.name}" for f in fields(ProbeConfig)),
    check=_check,
    seconds=lambda evaluation: pairs_compared(evaluation) / _PAIRS_PER_SECOND,
    figures=(
        Figure(
            "curve",
            "The player's position, as the state probe reads it",
            "pose",
            "pose_position_error",
            "pose_position_error",
            "position error (map units)",
        ),
    ),
)
