"""Everything a report needs, read from the store once: the states of jobs, where and how they ran, and how variants differ."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diamond_bench.config.worlds import DIAMOND
from diamond_bench.errors import UserError
from diamond_bench.report.world_costs import WorldCosts, world_costs
from diamond_bench.results.table import collect, conditions, finished_results, protocol_records, unverified, unverified_plan
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import KINDS
from diamond_bench.store.states import JobState
from diamond_bench.studies.answerable import measured_settings
from diamond_bench.studies.families import reads
from diamond_bench.studies.overview import job_labels
from diamond_bench.studies.plan import Point, SavedPlan
from diamond_bench.typed import to_plain

if TYPE_CHECKING:
    import pandas as pd

MAX_CONFIGS = 400
"""Most variants whose settings are read (three files each). For studies with more, arm and axes must suffice."""
_POINT_KEYS = ("seed", "game")
_UNSETTLED = ("failed", "damaged", "lost", "preempted")


@dataclass(frozen=True)
class StudyFacts:
    """A plan's finished results, and everything that the store records about its jobs."""

    table: "pd.DataFrame"
    recorded: Mapping[JobRef, Mapping[str, Any]]
    """Versions, commit, device and seconds of each finished job."""
    states: Mapping[JobRef, JobState]
    configs: Mapping[str, Mapping[str, Any]]
    """Settings of each variant by dotted key, as far as its jobs' config.yaml has them. Settings that cannot change a result are left
    out."""
    measured: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """For each variant, the settings that determine its measurements (`studies.answerable.measured_settings`)."""
    conditions: Mapping[JobRef, str] = dataclasses.field(default_factory=dict)
    """Conditions in the protocol record of each finished evaluation of an agent (`results.table.conditions`)."""
    costs: WorldCosts = dataclasses.field(default_factory=dict)
    """The cost of each variant's world model, without costs that its configs do not determine."""
    protocol: Sequence[str] = ()
    """See `results.table.protocol_records`."""
    unverified: Sequence[str] = ()
    """Notes on a plan or results without a checksum (`results.table.unverified_plan`, `unverified`)."""

    @property
    def done(self) -> Collection[JobRef]:
        """The finished jobs."""
        return self.recorded.keys()

    def family_of(self, variant: str) -> str | None:
        """The family of a variant's world model. None if its settings were not read."""
        found = self.configs.get(variant, {}).get("family")
        return None if found is None else str(found)


def calls_compare(families: Sequence[str | None]) -> bool:
    """Whether network calls of variants with these families compare: all have one family, which was read. None stands for an unread one."""
    return len(families) < 2 or (None not in families and len(set(families)) == 1)


def gather(plan: SavedPlan, store: Store) -> StudyFacts:
    """Reads everything. Raises DamagedFile if a result was changed since it was written."""
    results = finished_results(plan, store)
    recorded = {ref: result.recorded for ref, result in results.items()}
    states = {ref: JobState("done") if ref in results else store.state(ref) for ref in plan.jobs}
    games = {point.jobs["evaluation"]: point.game for point in plan.points}
    records = {ref: results[ref].info.get("protocol_record") for ref in games if ref in results}
    said = {ref: conditions(record, games[ref]) for ref, record in records.items() if record}
    protocol = protocol_records(plan, store, results)
    few = len({point.variant for point in plan.points}) <= MAX_CONFIGS
    kept = functools.cache(lambda ref: config_of(store, ref) if few else None)
    return StudyFacts(
        collect(plan, store, results),
        recorded,
        states,
        configs=_configs(plan, kept) if few else {},
        measured=measured_settings(plan.points, kept),
        conditions=said,
        costs=world_costs(plan, kept) if few else {},
        protocol=protocol,
        unverified=[*unverified_plan(plan), *unverified(results)],
    )


def families_of(plan: SavedPlan, store: Store, points: Sequence[Point]) -> list[str | None]:
    """`StudyFacts.family_of` of each variant of these points, read from the store."""
    few = len({point.variant for point in points}) <= MAX_CONFIGS
    found = _configs(dataclasses.replace(plan, points=tuple(points)), lambda ref: config_of(store, ref) if few else None)
    return [settings.get("family") for settings in found.values()]


def config_of(store: Store, ref: JobRef) -> Any:
    """A job's config. None if it is not prepared yet, belongs to another version, or may not be read."""
    try:
        return store.spec(ref).config
    except (UserError, PermissionError):
        return None


def _configs(plan: SavedPlan, kept: Callable[[JobRef], Any]) -> dict[str, dict[str, Any]]:
    first = {point.variant: point for point in reversed(plan.points)}
    found = {}
    for variant in dict.fromkeys(point.variant for point in plan.points):
        settings: dict[str, Any] = {}
        for role, ref in first[variant].jobs.items():
            config = kept(ref)
            own = {} if config is None else settings_of(config, plan.protocol)
            settings = {**own, **settings}  # the training's word first: an evaluation leaves neutral what it has no use for
            if role == "evaluation" and plan.protocol == "world_model":  # an agent has a sampler of its own
                settings |= {key: value for key, value in own.items() if key.startswith("sampler.")}
        found[variant] = settings
    return found


def settings_of(config: Any, protocol: str) -> dict[str, Any]:
    """The settings of a job or a run by dotted key, without those that its family of world models does not read."""
    leaves = _leaves(config, "")
    return {key: to_plain(value) for key, value in leaves if key not in _POINT_KEYS and reads(config, key, protocol)}


def _leaves(config: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("recorded"):
            continue
        if field.name == "family":
            yield "family", DIAMOND if value is None else value.name
            if value is not None:
                yield from ((f"family.{key}", own) for key, own in vars(value).items() if key != "name")
        elif dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def config_differences(plan: SavedPlan, facts: StudyFacts) -> "pd.DataFrame":
    """One row per variant: its name, and every setting in which the variants differ. If settings could not be read, arm and axes replace
    them."""
    import pandas as pd

    known: list[Mapping[str, Any]] = [settings for settings in facts.configs.values() if settings]
    if not known:
        known = [{plan.axes[name]["key"]: value for name, value in point.axes.items()} for point in plan.points]
    keys = list(dict.fromkeys(key for settings in known for key in settings))
    differing = [key for key in keys if len({str(settings.get(key, "–")) for settings in known}) > 1]
    first = {point.variant: point for point in reversed(plan.points)}
    rows = []
    for variant in dict.fromkeys(point.variant for point in plan.points):
        axes = {plan.axes[name]["key"]: value for name, value in first[variant].axes.items()}
        settings = facts.configs.get(variant) or axes
        rows.append([variant, *(str(settings.get(key, "–")) for key in differing)])
    return pd.DataFrame(rows, columns=["variant", *differing])


def job_rows(plan: SavedPlan, facts: StudyFacts) -> "pd.DataFrame":
    """One row per job: kind, id, description, status, error, seconds. A job that waits for a failed one is `blocked`, with the failed
    job."""
    import pandas as pd

    needs: dict[JobRef, dict[JobRef, None]] = {ref: {} for ref in plan.jobs}
    for point in plan.points:
        for ref in point.jobs.values():
            if ref in needs:  # an agent that a study was given is no job of its plan
                names = (*KINDS[ref.kind].inputs, *KINDS[ref.kind].optional) if ref.kind in KINDS else ()
                needs[ref] |= {point.jobs[name]: None for name in names if point.jobs.get(name) in needs}
    labels = job_labels(plan.points)
    blocked: dict[JobRef, JobRef] = {}
    rows = []
    for ref in plan.jobs:  # in dependency order
        state = facts.states[ref]
        cause = next((blocked.get(need, need) for need in needs[ref] if need in blocked or facts.states[need].status in _UNSETTLED), None)
        waits = cause is not None and state.status in ("missing", "pending")
        if waits and cause is not None:
            blocked[ref] = cause
        status = "blocked" if waits else "not begun" if state.status in ("missing", "pending") else state.status
        error = f"needs {cause} ({facts.states[cause].status})" if waits and cause is not None else state.error
        seconds = float(facts.recorded.get(ref, {}).get("seconds", state.seconds))
        rows.append([ref.kind, ref.id, labels.get(ref, ""), status, error, seconds])
    return pd.DataFrame(rows, columns=["kind", "id", "of", "status", "error", "seconds"])


def device_hours(facts: StudyFacts) -> "pd.DataFrame":
    """Kind of job, device, number of finished jobs, and the hours they took, including interrupted attempts."""
    import pandas as pd

    count: Counter[tuple[str, str]] = Counter()
    hours: Counter[tuple[str, str]] = Counter()
    for ref, recorded in facts.recorded.items():
        key = (ref.kind, device_name(recorded))
        count[key] += 1
        hours[key] += float(recorded.get("seconds", 0.0)) / 3600  # type: ignore[assignment]
    rows = [[kind, device, count[kind, device], hours[kind, device]] for kind, device in count]
    return pd.DataFrame(rows, columns=["kind", "device", "jobs", "hours"])


def device_name(recorded: Mapping[str, Any]) -> str:
    """The device a finished job ran on, by the driver's name."""
    return str(recorded.get("device_name") or recorded.get("device") or "unknown")


def versions(facts: StudyFacts) -> dict[str, list[str]]:
    """For the commit, Python and each library, the versions that the finished jobs ran under, most frequent first."""
    seen: dict[str, Counter[str]] = {}
    for recorded in facts.recorded.values():
        found = {"commit": recorded.get("commit") or "not a checkout", "python": recorded.get("python"), **recorded.get("versions", {})}
        for name, version in found.items():
            if version:
                seen.setdefault(str(name), Counter())[str(version)] += 1
    return {name: [version for version, _ in counts.most_common()] for name, counts in seen.items()}


def version_mixtures(found: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each component of which the jobs used several versions."""
    return [f"jobs ran under several versions of {name}: {', '.join(several)}" for name, several in found.items() if len(several) > 1]
