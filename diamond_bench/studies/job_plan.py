"""The plan of any command: jobs, their purpose, and their execution. Studies add their comparison (plan.py). Without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diamond_bench.config import Cluster, ExecutionConfig
from diamond_bench.config.worlds import DIAMOND
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.studies.margin import Margin
from diamond_bench.studies.spec import Primary

RANDOM_PLAY = "random_play"
"""Role of the job that plays an agent's game at random."""


@dataclass(frozen=True)
class Point:
    """One cell of a plan: a variant on a game with a seed, and its jobs."""

    variant: str
    arm: str
    axes: Mapping[str, Any]
    game: str
    seed: int
    precision: str
    jobs: Mapping[str, JobRef]
    """By role: dataset, world_model, evaluation, and if needed state_probe and true_features. In the protocol agent: agent, evaluation, and
    random_play in plans of one agent."""


@dataclass(frozen=True)
class Plan:
    """Jobs in dependency order, their purpose and execution: all that launching, estimating and showing them needs."""

    name: str
    """The name of its folder below studies/."""
    question: str
    scale: str
    """The scale's name, with a star if overrides changed its settings."""
    command: str
    """The command that makes this plan again."""
    jobs: Mapping[JobRef, JobSpec]
    points: tuple[Point, ...]
    execution: ExecutionConfig
    cluster: Cluster

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of its evaluations of world models."""
        evaluations = (job.config.evaluation.metrics for job in self.jobs.values() if job.kind == "evaluate_world_model")
        return tuple(dict.fromkeys(metric for metrics in evaluations for metric in metrics))

    @property
    def families(self) -> tuple[str, ...]:
        """The families of world models that it evaluates, or in which its agents learn, each once."""
        configs = (job.config for job in self.jobs.values() if job.kind in ("evaluate_world_model", "train_agent"))
        return tuple(dict.fromkeys(DIAMOND if config.family is None else config.family.name for config in configs))

    def executions(self) -> tuple[ExecutionConfig, ...]:
        """All executions of its jobs, in the order of their first request."""
        of_jobs = (job.config.execution for job in self.jobs.values() if hasattr(job.config, "execution"))
        return tuple(dict.fromkeys((self.execution, *of_jobs)))

    def comparison(self) -> dict[str, Any]:
        """The part of plan.json about the comparison. A single agent has none; its results show the test return first."""
        return {"note": "", "protocol": "agent", "axes": {}, "primary": plain_primary(Primary("test_return", {}, Margin(0.0)))}


@dataclass(frozen=True)
class SavedPlan:
    """A plan as stored in plan.json, for status, results and report."""

    study: str
    question: str
    note: str
    protocol: str
    scale: str
    command: str
    axes: Mapping[str, Mapping[str, str]]
    primary: Mapping[str, Any]
    jobs: tuple[JobRef, ...]
    points: tuple[Point, ...]
    folder: Path
    baseline_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For each evaluation (by id), its values of the settings in which evaluations of its game differ (studies/baselines.py)."""
    verified: bool = True
    """Whether a checksum proves that a sweep wrote it. Earlier versions wrote plans without one."""


def plain_primary(primary: Primary) -> dict[str, Any]:
    """A stated comparison in the format of plan.json."""
    return {
        "metric": primary.metric,
        "baseline": dict(primary.baseline),
        "margin": primary.margin.plain(),
        "variants": [{key: list(values) for key, values in group.items()} for group in primary.variants],
        "test": primary.test,
        "looks": list(primary.looks),
        "holm_equivalence": primary.holm_equivalence,
    }
