"""Reference predictors of a results table (copy-last-frame, ...), distinguished by the settings of their evaluations. Without torch.

A baseline's number depends on settings: the error of copying the last frame grows with the horizon. If the evaluations of one game differ
in such settings, the differing ones are part of the baseline's name in every table and figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from diamond_bench.config import EvaluationConfig
from diamond_bench.metrics.baselines import COPY_LAST, DEPENDS, EMULATOR, NETWORKS
from diamond_bench.metrics.columns import inputs_of
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.studies.job_plan import Point, SavedPlan
from diamond_bench.typed import to_plain

_NEVER = ("metrics", "batch_size", "milestone", "weights", "world_model", "keep_frames", "fixed_actions")


def differing_settings(jobs: Mapping[JobRef, JobSpec], points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """For each evaluation (by id), its values of the settings in which the evaluations of its game differ. Evaluations without such
    settings are left out. Settings of the dataset and the state probe have dotted keys."""
    found: dict[str, dict[str, Any]] = {}
    ways_of: dict[str, dict[tuple[Any, ...], list[str]]] = {}
    for point in points:
        ref = point.jobs["evaluation"]
        if ref.kind == "evaluate_world_model":
            way = (jobs[ref].config.evaluation, point.jobs.get("dataset"), *(point.jobs.get(role) for role in NETWORKS))
            ways_of.setdefault(point.game, {}).setdefault(way, []).append(ref.id)
    for ways in ways_of.values():
        if len(ways) < 2:
            continue
        settings = {way: _settings(way, jobs) for way in ways}
        names = dict.fromkeys(name for values in settings.values() for name in values)
        differing = [name for name in names if len({repr(values.get(name)) for values in settings.values()}) > 1]
        for way, ids in ways.items():
            own = {name: settings[way].get(name) for name in differing}
            found |= {identity: own for identity in ids if own}
    return found


def _settings(way: tuple[Any, ...], jobs: Mapping[JobRef, JobSpec]) -> dict[str, Any]:
    evaluation, dataset, *networks = way
    found = {f.name: to_plain(getattr(evaluation, f.name)) for f in fields(EvaluationConfig) if f.name not in _NEVER}
    for ref, prefix in ((dataset, ""), *zip(networks, NETWORKS.values(), strict=True)):
        if ref in jobs:
            config = to_plain(jobs[ref].config)
            found |= flat(config.get(prefix, {}) if prefix else {key: config[key] for key in ("env", "data")}, prefix)
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else name
        found |= flat(value, key) if isinstance(value, Mapping) else {key: value}
    return found


def baseline_variant(plan: SavedPlan, point: Point, baseline: str, metric: str = "") -> str:
    """The name of a baseline in tables for this point's evaluation, such as "copy-last-frame, horizon=50".

    It is the plain name if all evaluations of the game have the same settings, as far as this baseline's value of `metric` depends on them.
    Networks read copied frames and the game's own too, so these baselines depend on their settings in the rows of metrics that use them.
    """
    own = plan.baseline_settings.get(point.jobs["evaluation"].id, {})
    depends = DEPENDS.get(baseline, tuple(f.name for f in fields(EvaluationConfig)))
    if baseline in (COPY_LAST, EMULATOR):
        depends = (*depends, *(f"{group}." for role, group in NETWORKS.items() if role in inputs_of(metric)))
    prefixes = ("data.", "env.", *(name for name in depends if name.endswith(".")))
    parts = [f"{key}={value}" for key, value in own.items() if key.startswith(prefixes) or key in depends]
    return ", ".join([baseline, *parts])


def shared_variant(plan: SavedPlan, points: Sequence[Point], baseline: str, metric: str = "") -> str | None:
    """The name of the baseline that all these points share in rows of `metric`. None if their datasets or settings differ."""
    if len({point.jobs.get("dataset") for point in points}) > 1:
        return None
    names = {baseline_variant(plan, point, baseline, metric) for point in points}
    return names.pop() if len(names) == 1 else None
