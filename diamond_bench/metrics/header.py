"""The parts of a metric's header: columns of the results table, kinds of play, figures and sizes. Without torch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from diamond_bench.config import EvaluationConfig

Better = Literal["higher", "lower", "near 1", ""]
Play = Literal["rollouts", "one_step", "samples", "forks", "altered", "estimates", "held", "outcomes"]
"""The kinds of imagined play. `rollouts`, `one_step` and `samples` are part of every evaluation. The others are imagined only for metrics
that measure them. `forks` are samples of the next frame at windows with two possible next frames. `altered` are the first ALTERED_FRAMES
frames of the rollouts with their noise, but under uniformly random actions. `estimates` are no play: they are estimates of a true frame
from that frame under noise, at ESTIMATE_LEVELS, with the true actions and with one of them replaced. `held` is longer play under a no-op,
and under one other held action. `outcomes` are no frames: they are predicted rewards and ends along the references, from the model's own
frames and from the true ones."""
PLAYED: tuple[Play, ...] = ("held", "outcomes")
"""The kinds of play with a player in the loop: the player chooses each action when the step before it is done."""
ALTERED_FRAMES = 4
ESTIMATE_LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Noise levels of the estimates: sigma, in units of frames in [-1, 1]."""
ESTIMATED_WINDOWS = 1024
"""Maximum number of one-step windows with estimates."""

LAG_LEVEL = 0.01
"""The p-value below which a metric of control names the lag of the action that a model obeys."""

PICTURED = 4
"""Number of trajectories whose frames every evaluation keeps for pictures and the video."""
ROLLOUT_SIZES = ("num_trajectories", "horizon")
SAMPLE_SIZES = ("num_samples", "num_sample_starts", "sample_horizon")


@dataclass(frozen=True)
class PerReference:
    """The place in arrays.npz of the values whose mean is a column, one per reference or start."""

    array: str
    episodes: str
    """The array with the number of each value's held-out episode."""
    over: Literal["", "mean", "last"] = ""
    """The values taken from an array (references, t)."""


@dataclass(frozen=True)
class Column:
    """A number of the results table, for people and for comparisons."""

    title: str
    better: Better = ""
    """The better side. A column without one is not compared."""
    unit: str = ""
    protocol: str = "world_model"
    cost: bool = False
    """Whether it is a cost (time, memory, size) and not a quality."""
    of_game: bool = False
    """Whether its scale depends on the game, so that numbers of several games cannot be pooled."""
    counted: tuple[str, ...] = ()
    """The columns with the number and size of the samples it is computed from, if it depends on them. Values that differ in them are not
    compared."""
    biased_below: int = 0
    """The number of samples (the first column of `counted`) below which tables note that it is biased upwards."""
    low: float | None = None
    """The minimum of its range, if it has one. Intervals are clipped there."""
    high: float | None = None
    """The maximum of its range, if it has one. Intervals are clipped there."""
    definition: str = ""
    """The method of computation, for the reference of metrics. Columns with the same definition share a row there."""
    listed_as: str = ""
    """Its name there, if the row covers several columns."""
    detail: bool = False
    """Whether the tables of a report's page omit it."""
    headline: bool = False
    """Whether the tables printed by `results` and `sweep` contain it."""
    compared: bool = False
    """Whether a report compares variants by it, in addition to the primary metric."""
    drawn: bool = False
    """Whether it has a panel in the figure of quality against network calls."""
    copyable: bool = False
    """Whether a margin may be a share of copy-last-frame's error in this column."""
    sizes: tuple[str, ...] = ()
    """The sizes in EvaluationConfig on which it depends."""
    needs: tuple[str, ...] = ()
    """The metrics that give an evaluation's results this column. One of them is enough. The registry fills them in."""
    values: PerReference | None = None
    ceiling: tuple[str, ...] = ()
    """The baselines that show how good a model can be, for a column whose metric reads frames with a network. The first one with a value
    counts."""
    floor: str = ""
    """The baseline without any information. If the ceiling is not better, the column says nothing about models, and tables note that."""
    own_starts: bool = False
    """Whether its baseline covers starts that differ between models, so that each variant has its own baseline."""

    @property
    def label(self) -> str:
        """Title, unit and an arrow to the better side, for axes and columns."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.title}{unit}{ {'higher': ' ↑', 'lower': ' ↓'}.get(self.better, '') }"


@dataclass(frozen=True)
class Figure:
    """A figure of a metric in a report."""

    kind: Literal["curve", "objects", "modes", "thresholds", "ranks", "gaps", "survival", "outcomes", "sensitivity", "confusion"]
    """curve: an array (trajectories, t) against t, with the bands and baselines of drift. For the others see report/figures.py."""
    title: str
    stem: str
    """The first part of its file's name."""
    array: str = ""
    """The array that it shows."""
    column: str = ""
    """The column whose rows prove that an evaluation has the array."""
    words: str = ""
    """The y axis of a curve, or the ranked quantity."""


def pairs_compared(evaluation: EvaluationConfig) -> float:
    """Number of frame pairs that a metric of single frames compares: for the model and two baselines over rollouts, and for samples."""
    return 3 * evaluation.num_trajectories * evaluation.horizon + sampled_frames(evaluation)


def sampled_frames(evaluation: EvaluationConfig) -> int:
    """Number of frames of all sampled futures."""
    return evaluation.num_sample_starts * evaluation.num_samples * evaluation.sample_horizon


def held_frames(evaluation: EvaluationConfig) -> int:
    """Frames imagined under each held action."""
    return evaluation.hold_frames or evaluation.horizon


def without(metrics: Sequence[str], names: Collection[str]) -> str:
    """The override that measures the same without some metrics. If no metric is left, it is drift, which costs nothing."""
    return f"metrics=[{','.join(metric for metric in metrics if metric not in names) or 'drift'}]"
