"""Rewards and ends in imagination: what a world model or an agent's reward/end model predicts, against what happened in the game."""

from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_bench.config import WORLD_FAMILIES, RunConfig, imported, predicts_outcomes
from diamond_bench.config.worlds import always
from diamond_bench.envs.games import family_of
from diamond_bench.errors import UserError
from diamond_bench.metrics.header import ROLLOUT_SIZES, Column, Figure
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

REWARDS = ("minus", "zero", "plus")
"""The signs of a reward, in the order of the model's classes."""
CLASSES = (*(f"reward_{sign}" for sign in REWARDS), "end")
ARRAYS = ("reward_classes", "ends", *(f"{prefix}{name}" for prefix in ("", "true_") for name in CLASSES))
"""Arrays (references, T): probabilities along imagined and true frames, and what happened."""
WAYS = {"": "", "_forced": "true_"}
"""By the end of a column's name, the prefix of its arrays: frames that the model imagined from its own frames, or the true frames."""


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.data.outcomes import load_outcomes
    from diamond_bench.metrics.play import Meter

    references = setting.references
    lives = setting.evaluation.world_model is not None  # an agent's training ends an episode with a lost life
    known = load_outcomes(setting.inputs["dataset"], "heldout", lives)
    first = references.first.cpu().numpy() + references.context - 1

    def measure(batch: "Batch") -> "Arrays":
        if batch.kind != "outcomes":
            return {}
        assert batch.predicted is not None
        rewards, ends = (values.cpu().numpy() for values in (batch.predicted.rewards, batch.predicted.ends))
        found = {f"reward_{sign}": rewards[..., i] for i, sign in enumerate(REWARDS)} | {"end": ends}
        if batch.shown:
            return found
        where = first[list(batch.rows)][:, None] + np.arange(ends.shape[1])
        return {**found, "reward_classes": np.sign(known.rewards[where]).astype(np.int64) + 1, "ends": known.ends[where]}

    return Meter(measure)


def scores(arrays: "Mapping[str, NDArray[Any]]", prefix: str, steps: "NDArray[np.int64]") -> "dict[str, float]":
    """Precision, recall and calibration error by class and name of the score, over these steps of all plays up to their first true end."""
    from analysis.outcomes import before_end, class_scores

    counted = before_end(arrays["ends"])[:, steps]
    found: dict[str, float] = {}
    *signs, ended = (arrays[f"{prefix}{name}"][:, steps][counted] for name in CLASSES)
    rewards = class_scores(np.stack(signs, axis=1), arrays["reward_classes"][:, steps][counted])
    _, of_end = class_scores(np.stack((1 - ended, ended), axis=1), arrays["ends"][:, steps][counted])
    for name, of in zip(CLASSES, (*rewards, of_end), strict=True):
        found |= {f"{name}_precision": of.precision, f"{name}_recall": of.recall, f"{name}_calibration": of.calibration_error}
    return found


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    from analysis.outcomes import before_end

    arrays = measured.outcomes
    classes = arrays["reward_classes"]
    counted, rows = before_end(arrays["ends"]), []
    true = ((classes - 1) * counted).sum(axis=1)
    for end, prefix in WAYS.items():
        rows += [Row(f"{name}{end}", value) for name, value in scores(arrays, prefix, np.arange(classes.shape[1])).items()]
        expected = arrays[f"{prefix}reward_plus"] - arrays[f"{prefix}reward_minus"]
        error = (expected * counted).sum(axis=1) - true
        rows += [Row(f"imagined_return_error{end}", float(np.abs(error).mean())), Row(f"imagined_return_bias{end}", float(error.mean()))]
    rows += [
        Row("outcome_steps", float(counted.sum())),
        Row("outcome_rewards", float(((classes != 1) & counted).sum())),
        Row("outcome_ends", float((arrays["ends"] & counted).sum())),
    ]
    return {"after": rows}


def _check(config: RunConfig) -> None:
    agent = config.evaluation.world_model is not None and not config.evaluation.world_model.startswith("import_world_model/")
    if not agent and not predicts_outcomes(config):
        able = ", ".join(name for name in WORLD_FAMILIES if imported(WORLD_FAMILIES[name].function).outcomes is always)
        raise UserError(
            "metrics: outcomes measures predicted rewards and ends, and this world model predicts none. Name an agent with "
            f"evaluation.world_model=AGENT, take a family that predicts them ({able}), or set network.heads.reads to last, extra or frames",
            keys=("metrics", "evaluation.world_model", "network.heads.reads"),
        )
    if config.data.dataset is not None:
        raise UserError(
            f"metrics: outcomes needs the rewards and ends of each step, and your dataset {config.data.dataset} is not known to hold them; "
            "collect a dataset here (data.dataset=null)",
            keys=("metrics", "data.dataset"),
        )
    if not family_of(config.game).rewards:
        raise UserError(f"metrics: outcomes needs rewards, and {config.game} has none", keys=("metrics",))


_FORGETS = "; a world model that predicts them itself starts again at each step, so its memory reaches back to the context only"
"""The limit of teacher-forced predictions, see `evaluation.outcomes`."""


def _columns() -> dict[str, Column]:
    found: dict[str, Column] = {}
    words = {**{f"reward_{sign}": f"reward {text}" for sign, text in zip(REWARDS, ("−1", "0", "+1"), strict=True)}, "end": "end"}
    for end in WAYS:
        frames = "true frames" if end else "imagined frames"
        until = ", up to the first true end" + (_FORGETS if end else "")
        for name in CLASSES:
            for score, better, text in (
                ("precision", "higher", "share of the predictions of this class that are right"),
                ("recall", "higher", "share of the occurrences of this class that are predicted"),
                ("calibration", "lower", "expected calibration error of this class's probability, ten bins"),
            ):
                found[f"{name}_{score}{end}"] = Column(
                    f"{words[name]}: {score if score != 'calibration' else 'calibration error'}, {frames}",
                    better,  # type: ignore[arg-type]
                    "share",
                    low=0.0,
                    high=1.0,
                    definition=f"along {frames} under the true actions, {text}{until} "
                    "([evaluation.md](evaluation.md#rewards-and-ends-in-imagination))",
                    listed_as=f"reward_<sign>_{score}{end}" if name != "end" else f"end_{score}{end}",
                    detail=bool(end) or name == "reward_zero",
                    headline=not end and name in ("reward_plus", "end") and score == "recall",
                    sizes=ROLLOUT_SIZES,
                )
        found[f"imagined_return_error{end}"] = Column(
            f"error of the return, {frames}",
            "lower",
            low=0.0,
            definition=f"mean over references of |expected minus true sum of reward signs| along {frames}{until}",
            headline=not end,
            compared=not end,
            sizes=ROLLOUT_SIZES,
        )
        found[f"imagined_return_bias{end}"] = Column(
            f"bias of the return, {frames}",
            definition=f"mean over references of the expected minus the true sum of reward signs along {frames}{until}",
            detail=bool(end),
            sizes=ROLLOUT_SIZES,
        )
    for name, text in {
        "outcome_steps": "steps of predicted outcomes",
        "outcome_rewards": "steps with a reward",
        "outcome_ends": "ends",
    }.items():
        found[name] = Column(
            text, low=0.0, definition=f"{text} in the references, up to the first end of each", detail=True, sizes=ROLLOUT_SIZES
        )
    return found


METRIC = Metric(
    "outcomes",
    _columns(),
    _open,
    _reduce,
    play=("outcomes",),
    check=_check,
    figures=(Figure("outcomes", "Rewards and ends in imagination", "outcomes", column="imagined_return_error"),),
)
