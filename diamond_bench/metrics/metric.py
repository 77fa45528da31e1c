"""What a metric says about itself: its columns, what it measures, what it needs, its cost and its figures. No torch."""

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
    """The torch-free header of a metric. Its functions import torch only where they run."""

    name: str
    columns: Mapping[str, Column]
    open: Callable[["Setting"], "Meter"]
    """Loads what it measures with. The meter then measures batches of play."""
    reduce: Callable[["Measured"], Mapping[str, Sequence["Row"]]]
    """Rows from the joined arrays, by the stage of the results at which they stand (play.STAGES)."""
    asked: bool = True
    """Whether `evaluation.metrics` names it. Metrics that it does not name are measured always."""
    always: bool = False
    """Whether its arrays are measured even if it is not asked for; then it has no rows."""
    play: tuple[Play, ...] = ("rollouts",)
    weights: str = ""
    """The file of weights that it needs (weights.WEIGHTS)."""
    inputs: Mapping[str, Callable[[RunConfig, ExecutionConfig], tuple[str, Any]]] = field(default_factory=dict)
    """By role of an artifact that it needs: kind and config of the job that makes it from the dataset."""
    reads: tuple[str, ...] = ()
    """Keys of the config that nothing reads where it is not asked for."""
    check: Callable[[RunConfig], None] = lambda config: None
    """Raises UserError at planning where the config or the game does not allow it."""
    seconds: Callable[[EvaluationConfig], float] = lambda evaluation: 0.0
    """Time to measure, on two CPU cores."""
    part_bytes: Callable[[EvaluationConfig], float] = lambda evaluation: 0.0
    """Disk that its finished parts take while a job runs."""
    figures: tuple[Figure, ...] = ()
