"""The status of studies and jobs, for people and programs: the content of `status`, `show` and `diff`."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import KINDS
from diamond_bench.store.states import JobState
from diamond_bench.studies.plan import PER_GAME, Point, SavedPlan, find_plan, load_plans
from diamond_bench.typed import to_plain

_MISSING = JobState("missing")
_NOT_NOTABLE = ("done", "pending")


@dataclass(frozen=True)
class StudyStatus:
    """A swept study: numbers of its jobs by status, and those that deserve their own line."""

    study: str
    scale: str
    counts: Mapping[str, int]
    notable: Mapping[JobRef, JobState]
    """Running, failed, preempted, lost or damaged jobs."""
    pending: Mapping[JobRef, JobState]
    """Jobs that have not begun. `text` says what each waits for, in SLURM's words where it is in the queue."""
    labels: Mapping[JobRef, str]
    command: str
    waiting: Mapping[str, int]
    """Reasons of pending jobs, in SLURM's words, and the number of jobs with each."""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        listed = {**self.notable, **self.pending}
        jobs = [{"id": ref.id, "kind": ref.kind, "of": self.labels[ref], **to_plain_state(state)} for ref, state in listed.items()]
        return {"study": self.study, "scale": self.scale, "counts": dict(self.counts), "waiting": dict(self.waiting), "jobs": jobs} | {
            "command": self.command
        }


def to_plain_state(state: JobState) -> dict[str, Any]:
    """A job's state as JSON."""
    return {name: str(value) if name == "log" and value else value for name, value in dataclasses.asdict(state).items()}


def overview(store: Store, study: str | None, tokens: Sequence[str], states: Mapping[JobRef, JobState] | None = None) -> list[StudyStatus]:
    """The swept studies of a store, or one of them. `states`: those of the store's jobs, if more is known than in the store.

    Raises UserError if there is no such study.
    """
    left_out: list[str] = []
    plans = load_plans(store.root, refuse=left_out.append) if study is None else [find_plan(store.root, study, tokens)]
    for reason in left_out:
        store.say(f"left out: {reason}")
    if not plans:
        raise UserError(f"no study has been swept into {store.root}; see `diamond-bench studies`, or name another output_dir=")
    found = store.states() if states is None else states
    return [status_of(plan, found) for plan in plans]


def status_of(plan: SavedPlan, states: Mapping[JobRef, JobState]) -> StudyStatus:
    """The status of a plan's jobs, given the states of the store's jobs."""
    found = {ref: states.get(ref, _MISSING) for ref in plan.jobs}
    needs = _needs(plan.points)
    for ref, state in found.items():
        if state.status == "missing" or (state.status == "pending" and not state.text):
            wanted = [name for name, need in needs[ref].items() if found[need].status != "done"]
            found[ref] = replace(state, status="pending", text=f"waits for its {' and '.join(wanted)}" if wanted else "ready to run")
    counts: Counter[str] = Counter(state.status for state in found.values())
    notable = {ref: state for ref, state in found.items() if state.status not in _NOT_NOTABLE}
    pending = {ref: state for ref, state in found.items() if state.status == "pending"}
    waiting = Counter(states[ref].text for ref in pending if ref in states and states[ref].text)
    counted: dict[str, int] = dict(sorted(counts.items()))
    labels = job_labels(plan.points)
    return StudyStatus(plan.study, plan.scale, counted, notable, pending, labels, plan.command, dict(waiting.most_common()))


def _needs(points: Iterable[Point]) -> dict[JobRef, dict[str, JobRef]]:
    """The jobs of a plan that each of its jobs needs, by the name of the input in words."""
    found: dict[JobRef, dict[str, JobRef]] = {}
    for point in points:
        for ref in point.jobs.values():
            inputs = KINDS[ref.kind].inputs if ref.kind in KINDS else ()
            needs = {name.replace("_", " "): point.jobs[name] for name in inputs if name in point.jobs and point.jobs[name] != ref}
            found.setdefault(ref, {}).update(needs)
    return found


def job_labels(points: Iterable[Point]) -> dict[JobRef, str]:
    """A short description of each job: its game, seed and variant."""
    points = list(points)
    where: dict[JobRef, str] = {}
    for point in points:
        for role, ref in point.jobs.items():
            where[ref] = point.game if role in PER_GAME else f"{point.game}, seed {point.seed}"
    return {ref: f"{where[ref]}, {found[0]}" if len(found) == 1 else where[ref] for ref, found in job_variants(points).items()}


def job_variants(points: Iterable[Point]) -> dict[JobRef, list[str]]:
    """The variants that use each job, in the plan's order."""
    variants: dict[JobRef, dict[str, None]] = {}
    for point in points:
        for ref in point.jobs.values():
            variants.setdefault(ref, {})[point.variant] = None
    return {ref: list(names) for ref, names in variants.items()}


def describe(store: Store, ref: JobRef) -> str:
    """A job as YAML: its description, state and result."""
    spec, state = store.spec(ref), store.state(ref)
    content: dict[str, Any] = {
        "job": str(ref),
        "folder": str(store.folder(ref)),
        "state": {name: value for name, value in to_plain_state(state).items() if value not in (None, "", 0)},
        "inputs": {name: str(needed) for name, needed in spec.inputs.items()},
        "config": to_plain(spec.config),
    }
    if state.status == "done":
        result = store.result(ref)
        content["checksum"] = "verified" if result.verified else "unverified: the result was written in store format 1, which has none"
        content["rows"] = {f"{row['metric']}{_of(row)}": row["value"] for row in result.rows}
        content["info"], content["recorded"] = result.info, result.recorded
    if state.started:
        content["state"]["started"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.started))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140)


def _of(row: Mapping[str, Any]) -> str:
    return f" ({row['baseline']})" if row.get("baseline") else ""


def differences(store: Store, one: JobRef, other: JobRef) -> Iterator[tuple[str, str, str]]:
    """(key, value in one, value in the other) for all differences between two jobs' configs and inputs."""
    flat = [_flat({**_identity(store, ref)}) for ref in (one, other)]
    for key in dict.fromkeys([*flat[0], *flat[1]]):
        values = [str(side.get(key, "-")) for side in flat]
        if values[0] != values[1]:
            yield key, values[0], values[1]


def _identity(store: Store, ref: JobRef) -> dict[str, Any]:
    spec = store.spec(ref)
    return {"kind": spec.kind, "revision": spec.revision, "inputs": {n: str(r) for n, r in spec.inputs.items()}, **to_plain(spec.config)}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()}
