"""Control: whether imposed actions can be read from imagined frames, by an inverse-dynamics network that was trained on real ones."""

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from diamond_bench.config import ExecutionConfig, InverseDynamicsConfig, RunConfig
from diamond_bench.metrics.action_gain import check_horizon
from diamond_bench.metrics.baselines import COPY_LAST, EMULATOR, REAL_HELDOUT, REAL_IMPOSED
from diamond_bench.metrics.header import ALTERED_FRAMES, LAG_LEVEL, Column, Figure
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.kinds import TrainInverseDynamics
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diamond_bench.metrics.action_reader import Array as Values
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting
    from diamond_bench.models.inverse_dynamics import ActionCode

_ROLE = "inverse_dynamics"
_LAGS = 3
"""The lags compared: from the action that leads to a frame to the one two steps earlier. The last lag has ALTERED_FRAMES - 2 frames."""


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
    import numpy as np

    from diamond_bench.metrics.action_reader import DESCRIPTION, FOLDER, read_code
    from diamond_bench.store.files import read_json

    code = read_code(read_json(measured.inputs[_ROLE] / FOLDER / DESCRIPTION))
    imposed, read, first, copied = (measured.altered[f"action_{name}"] for name in ("imposed", "read", "first", "copied"))
    clusters = measured.altered["episodes"], measured.altered["blocks"]
    every = np.ones(read.shape[:2], bool)
    rows = _rows(code, imposed, read, first, every, clusters)
    rows += _rows(code, imposed, copied, None, every, clusters, COPY_LAST)
    if "true_action_read" in measured.altered:
        read, first, lasted = (measured.altered[f"true_action_{name}"] for name in ("read", "first", "lasted"))
        rows += _rows(code, imposed, read, first, lasted, clusters, EMULATOR)
    return {"after": rows}


def _rows(
    code: "ActionCode",
    imposed: "Values",
    read: "Values",
    first: "Values | None",
    valid: "NDArray[np.bool_]",
    clusters: tuple["NDArray[Any]", "NDArray[Any]"],
    baseline: str = "",
) -> list[Row]:
    """Rows for values that were imposed and read, (n, t, k), at the frames that are `valid`, (n, t): the accuracy at each lag, and the best
    lag. `clusters`: the numbers of each trajectory's episode and block, (n,) each."""
    from diamond_bench.metrics.action_reader import accuracy_rows, scores
    from diamond_bench.metrics.lags import best_lag

    rows = accuracy_rows(code, imposed[valid], read[valid], None if first is None else first[valid], baseline)
    for lag in range(1, _LAGS):
        if (there := valid[:, lag:]).any():
            late = accuracy_rows(code, imposed[:, :-lag][there], read[:, lag:][there], baseline=baseline)
            rows += [Row(f"{row.metric}_lag_{lag}", row.value, baseline=baseline) for row in late if row.metric != "action_value_error"]
    peak, found = best_lag(scores(code, imposed, read, _LAGS, valid), *clusters)
    of_lag = {"": float(peak) if found.p < LAG_LEVEL else math.nan, "_p": found.p, "_clusters": found.clusters}
    of_lag |= {"_margin": found.margin, "_margin_low": found.low, "_margin_high": found.high}
    return rows + [Row(f"action_accuracy_lag{name}", value, baseline=baseline) for name, value in of_lag.items()]


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
            ceiling=(EMULATOR, REAL_IMPOSED, REAL_HELDOUT),
            floor=COPY_LAST,
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
        for lag, words in zip(range(1, _LAGS), ("one step", "two steps"), strict=True):
            found[f"{name}_lag_{lag}"] = Column(
                f"{title}, {words} late",
                unit="share",
                low=0.0,
                high=1.0,
                definition=f"`{name}` with the action imposed {words} earlier: high for a model that obeys each action {words} late",
                headline=name == "action_accuracy" and lag == 1,
                detail=lag > 1,
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
    return found | _lag_columns()


def _lag_columns() -> dict[str, Column]:
    margin = (
        "accuracy at the best lag minus accuracy at the lag that comes closest: the smallest difference from another lag, in the frames "
        "that both have. Its 95% interval is clustered by held-out episode, or by trajectory if there are fewer than 5 episodes, and is "
        "not corrected for the choice of the lags"
    )
    return {
        "action_accuracy_lag": Column(
            "lag of the action that is read best",
            unit="steps",
            definition=f"the lag from 0 to {_LAGS - 1} with the highest accuracy, for continuous actions the highest side accuracy. Lag 0 "
            f"is the action that leads to the frame. No number unless `action_accuracy_lag_p` is below {LAG_LEVEL:g}",
            low=0.0,
            headline=True,
            sizes=_SIZES,
        ),
        "action_accuracy_lag_p": Column(
            "p-value of the lag that is read best",
            definition="p-value of the claim that the accuracy at this lag is higher than at every other one. One-sided t tests with "
            "standard errors clustered by held-out episode, or by trajectory if there are fewer than 5 episodes",
            low=0.0,
            high=1.0,
            detail=True,
            sizes=_SIZES,
        ),
        "action_accuracy_lag_clusters": Column(
            "clusters behind the lag that is read best",
            definition="number of held-out episodes, or of trajectories if there are fewer than 5 episodes",
            low=0.0,
            detail=True,
            sizes=_SIZES,
        ),
        "action_accuracy_lag_margin": Column("margin of the lag that is read best", unit="share", definition=margin, sizes=_SIZES),
        "action_accuracy_lag_margin_low": Column("margin of that lag, lower end", definition=margin, detail=True, sizes=_SIZES),
        "action_accuracy_lag_margin_high": Column("margin of that lag, upper end", definition=margin, detail=True, sizes=_SIZES),
    }


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
