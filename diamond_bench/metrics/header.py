"""What the headers of metrics are made of: columns of the results table, kinds of play, figures and sizes. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from diamond_bench.config import EvaluationConfig

Better = Literal["higher", "lower", "near 1", ""]
Play = Literal["rollouts", "one_step", "samples", "forks"]
"""The kinds of imagined play. `rollouts`, `one_step` and `samples` are part of every evaluation. `forks` are samples of the next frame
where the game can go two ways; they are imagined only for metrics that measure them."""

PICTURED = 4
"""Trajectories whose frames every evaluation keeps for pictures and the video."""
ROLLOUT_SIZES = ("num_trajectories", "horizon")
SAMPLE_SIZES = ("num_samples", "num_sample_starts", "sample_horizon")


@dataclass(frozen=True)
class PerReference:
    """Where arrays.npz holds the values whose mean is a column, one for each reference or start."""

    array: str
    episodes: str
    """The array with the number of each value's held-out episode."""
    over: Literal["", "mean", "last"] = ""
    """What is taken of an array (references, t)."""


@dataclass(frozen=True)
class Column:
    """One number of the results table, for people and for comparisons."""

    title: str
    better: Better = ""
    """The better side. A column without one is in no comparison."""
    unit: str = ""
    protocol: str = "world_model"
    cost: bool = False
    """Whether it is a price (time, memory, size) and no quality."""
    of_game: bool = False
    """Whether its scale is the game's own, so that numbers of several games do not pool."""
    counted: str = ""
    """The column that counts the images it is computed from, where its bias depends on their number: other numbers do not compare."""
    low: float | None = None
    """The least value it can have, where there is one; an interval ends there."""
    high: float | None = None
    """The greatest value it can have, where there is one; an interval ends there."""
    definition: str = ""
    """How it is computed, as docs/studies.md says it. Columns of one definition share a row there."""
    listed_as: str = ""
    """Its name there, where it stands for several columns."""
    detail: bool = False
    """Whether the tables of a report's page leave it out."""
    headline: bool = False
    """Whether the tables printed by `results` and `sweep` have it."""
    compared: bool = False
    """Whether a report compares variants by it, besides the primary metric."""
    drawn: bool = False
    """Whether it has a panel in the figure of quality against denoiser calls."""
    copyable: bool = False
    """Whether a margin may be a share of copy-last-frame's error in it."""
    sizes: tuple[str, ...] = ()
    """The sizes in EvaluationConfig on which it depends."""
    needs: str = ""
    """The metric that an evaluation must be asked for so that its results have this column; the registry fills it in."""
    values: PerReference | None = None
    own_starts: bool = False
    """Whether its baseline counts starts that differ between models, so that each variant has a baseline of its own."""

    @property
    def label(self) -> str:
        """Title, unit and an arrow to the better side, as axes and columns show it."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.title}{unit}{ {'higher': ' ↑', 'lower': ' ↓'}.get(self.better, '') }"


@dataclass(frozen=True)
class Figure:
    """A figure that a report draws of a metric."""

    kind: Literal["curve", "objects", "modes", "thresholds", "ranks"]
    """curve: an array (trajectories, t) against t, with the bands and baselines of drift. The others: report/figures.py."""
    title: str
    stem: str
    """The beginning of its file's name."""
    array: str = ""
    """The array that it draws."""
    column: str = ""
    """The column in whose rows an evaluation shows that it has the array."""
    words: str = ""
    """The y axis of a curve, or what is ranked."""


def pairs_compared(evaluation: EvaluationConfig) -> float:
    """Pairs of frames that a metric of single frames compares: of the model and two baselines over rollouts, and of samples."""
    return 3 * evaluation.num_trajectories * evaluation.horizon + sampled_frames(evaluation)


def sampled_frames(evaluation: EvaluationConfig) -> int:
    """Frames of all sampled futures."""
    return evaluation.num_sample_starts * evaluation.num_samples * evaluation.sample_horizon


def without(metrics: Sequence[str], name: str) -> str:
    """The override that measures the same without one metric and its variants; drift, which costs nothing, where no other is left."""
    return f"metrics=[{','.join(metric for metric in metrics if not metric.startswith(name)) or 'drift'}]"
