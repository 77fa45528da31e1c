"""The header of a metric: its columns, measurements, requirements, cost and figures. Without torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diamond_bench.config import EvaluationConfig, ExecutionConfig, RunConfig
from diamond_bench.metrics.header import Column, Figure, Play

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Measured, Meter, Setting
    from diamond_bench.store.rows import Row


@dataclass(frozen=True)
class Metric:
    """The torch-free header of a metric. Its functions import torch only when they run."""

    name: str
    columns: Mapping[str, Column]
    open: Callable[["Setting"], "Meter"]
    """Loads networks and data. The returned meter then measures batches of play."""
    reduce: Callable[["Measured"], Mapping[str, Sequence["Row"]]]
    """Rows from the joined arrays, by their stage in the results (play.STAGES)."""
    asked: bool = True
    """Whether `evaluation.metrics` may name it. Other metrics are always measured."""
    always: bool = False
    """Whether its arrays are measured even if the metric is not requested. It then has no rows."""
    play: tuple[Play, ...] = ("rollouts",)
    spares: tuple[Play, ...] = ()
    """The kinds in `play` without which it still has rows, if a folder of given frames lacks them."""
    replays: bool = False
    """Whether it also measures the game itself under the actions of altered play, where the game can be replayed."""
    weights: str = ""
    """The weights that it needs (weights.WEIGHTS)."""
    inputs: Mapping[str, Callable[[RunConfig, ExecutionConfig], tuple[str, Any]]] = field(default_factory=dict)
    """The artifacts that it needs, by role: kind and config of the job that creates each from the dataset."""
    reads: tuple[str, ...] = ()
    """Config keys that have no effect unless the metric is requested."""
    check: Callable[[RunConfig], None] = lambda config: None
    """Raises UserError at planning if the config or the game does not allow it. The error's `keys` are the settings that its message names.
    They begin with "metrics" if the metric itself is refused. The message is the reason, and after "; " advice for a sweep."""
    seconds: Callable[[EvaluationConfig], float] = lambda evaluation: 0.0
    """Seconds of measurement on two CPU cores."""
    part_bytes: Callable[[EvaluationConfig], float] = lambda evaluation: 0.0
    """Bytes of disk that its finished parts take while a job runs."""
    figures: tuple[Figure, ...] = ()
