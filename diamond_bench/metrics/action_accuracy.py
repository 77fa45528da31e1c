"""Control: whether imposed actions can be read from imagined frames, by an inverse-dynamics network that was trained on real ones."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from diamond_bench.config import ExecutionConfig, InverseDynamicsConfig, RunConfig
from diamond_bench.metrics.action_gain import check_horizon
from diamond_bench.metrics.baselines import COPY_LAST, EMULATOR
from diamond_bench.metrics.header import ALTERED_FRAMES, Column, Figure
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.kinds import TrainInverseDynamics
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

_ROLE = "inverse_dynamics"


def _open(setting: "Setting") -> "Meter":
    import numpy as np
    import torch

    from diamond_bench.metrics.action_reader import confusion, load_reader
    from diamond_bench.metrics.play import Meter

    reader = load_reader(setting.inputs[_ROLE], setting.device)

    def measure(batch: "Batch") -> "Arrays":
        """Values (n, ALTERED_FRAMES, k) that were imposed and read, and for Discrete actions the counts of pairs (n, C, C). Of the game
        itself: values that were read, and whether the game had not ended yet (n, ALTERED_FRAMES)."""
        if batch.kind != "altered":
            return {}
        play, frames = batch.play, batch.frames[:, :ALTERED_FRAMES]
        last = play.context - 1
        before = torch.cat((play.frames[:, last : last + 1], frames[:, :-1]), dim=1)
        read, first = reader.read(before, frames)
        if batch.shown == "true":
            assert batch.lengths is not None
            lasted = np.arange(ALTERED_FRAMES) < batch.lengths[:, None]
            return {"action_read": read, "action_first": first, "action_lasted": lasted}
        copied = play.frames[:, last : last + 1].expand_as(frames)
        imposed = reader.values(play.actions[:, last : last + ALTERED_FRAMES])
        found: Arrays = {"imposed": imposed, "read": read, "first": first, "copied": reader.read(copied, copied)[0]}
        if not reader.code.spec.trailing:
            found["confusion"] = confusion(imposed, read, reader.code.width)
        return {f"action_{name}": values for name, values in found.items()}

    return Meter(measure)


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    from diamond_bench.metrics.action_reader import DESCRIPTION, FOLDER, accuracy_rows, read_code
    from diamond_bench.store.files import read_json

    code = read_code(read_json(measured.inputs[_ROLE] / FOLDER / DESCRIPTION))
    imposed, read, first, copied = (measured.altered[f"action_{name}"] for name in ("imposed", "read", "first", "copied"))
    rows = accuracy_rows(code, imposed, read, first)
    late = [row for row in accuracy_rows(code, imposed[:, :-1], read[:, 1:]) if row.metric != "action_value_error"]
    rows += [Row(f"{row.metric}_lag_1", row.value) for row in late]
    rows += accuracy_rows(code, imposed, copied, baseline=COPY_LAST)
    if "true_action_read" in measured.altered:
        read, first, lasted = (measured.altered[f"true_action_{name}"] for name in ("read", "first", "lasted"))
        rows += accuracy_rows(code, imposed[lasted], read[lasted], first[lasted], baseline=EMULATOR)
    return {"after": rows}


def _network(config: RunConfig, execution: ExecutionConfig) -> tuple[str, Any]:
    return "train_inverse_dynamics", TrainInverseDynamics(config.inverse_dynamics, execution)


_SIZES = ("num_trajectories",)


def _columns() -> dict[str, Column]:
    found: dict[str, Column] = {}
    for name, title, what in (
        (
            "action_accuracy",
            "accuracy of imposed actions",
            "share of uniformly random, imposed actions that the inverse-dynamics network reads",
        ),
        (
            "action_sign_accuracy",
            "side accuracy of imposed values",
            "of columns with numbers or more than two values, the share whose side of the middle the network reads rightly",
        ),
    ):
        found[name] = Column(
            title,
            "higher",
            "share",
            low=0.0,
            high=1.0,
            definition=f"{what}, from the first {ALTERED_FRAMES} imagined frames of all trajectories ([control](evaluation.md#control))",
            headline=name == "action_accuracy",
            compared=True,
            sizes=_SIZES,
        )
        found[f"{name}_gain"] = Column(
            f"{title}, above the first frame alone",
            "higher",
            "share",
            low=-1.0,
            high=1.0,
            definition=f"`{name}` minus that of a network that sees only the first of the two frames",
            sizes=_SIZES,
        )
        found[f"{name}_lag_1"] = Column(
            f"{title}, one step late",
            unit="share",
            low=0.0,
            high=1.0,
            definition=f"`{name}` with the action imposed one step earlier: high for a model that obeys each action one step late",
            headline=name == "action_accuracy",
            sizes=_SIZES,
        )
    found["action_value_error"] = Column(
        "error of imposed values",
        "lower",
        "share of the range",
        low=0.0,
        high=1.0,
        definition="mean absolute difference of read and imposed values of those columns, in shares of their range",
        sizes=_SIZES,
    )
    return found


METRIC = Metric(
    "action_accuracy",
    _columns(),
    _open,
    _reduce,
    play=("rollouts", "altered"),
    replays=True,
    inputs={_ROLE: _network},
    reads=tuple(f"{_ROLE}.{f.name}" for f in fields(InverseDynamicsConfig)),
    check=lambda config: check_horizon(config, "action_accuracy"),
    figures=(Figure("confusion", "Actions read from imagined frames", "confusion", "altered_action_confusion", "action_accuracy"),),
)
