"""Several studies on one page: their own answers, their means side by side where these may stand in one table, and what differs."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError
from diamond_bench.metrics.columns import METRIC_INFO, headlines, unused_settings
from diamond_bench.report.comparison import Comparison, compare_study
from diamond_bench.report.facts import StudyFacts, config_of, gather, version_mixtures, versions
from diamond_bench.report.gate import Gate, gates
from diamond_bench.report.registered import level
from diamond_bench.results.table import mixtures, seed_means, uninformative
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.baselines import flat
from diamond_bench.studies.plan import SavedPlan, command_of
from diamond_bench.studies.registration import RegistrationStatus, registration_status
from diamond_bench.typed import to_plain

if TYPE_CHECKING:
    import pandas as pd

ONE_GAME = "the study's game"
"""In place of a game where the studies are one study on datasets of different names."""
_EVALUATION = "evaluation."
_NOT_RESULTS = ("output_dir=", "cluster=", "cluster.")
"""Overrides that say where a sweep runs and is stored."""
_NOT_MEASURED = ("evaluation.metrics", "evaluation.batch_size", "evaluation.keep_frames", "evaluation.milestone", "evaluation.weights")
"""Settings of an evaluation that name a variant or a way to compute, and do not change what a metric means."""


@dataclass(frozen=True)
class Entry:
    """One study of the page, with everything read of it."""

    label: str
    plan: SavedPlan
    facts: StudyFacts
    comparison: Comparison
    standing: RegistrationStatus
    gates: tuple[Gate, ...]
    datasets: Mapping[str, Mapping[str, Any]]
    """For each game, the settings of its dataset by dotted key."""


@dataclass(frozen=True)
class Side:
    """Studies whose means may stand in one table: one protocol and one scale."""

    entries: tuple[Entry, ...]
    means: "pd.DataFrame"
    """study (its label), game, variant, metric, mean, low, high: all that at least two of the studies have of one game."""

    @property
    def metrics(self) -> list[str]:
        """The metrics that are side by side: primary metrics first, then headlines, then the others in the order of the tables."""
        present = dict.fromkeys(self.means["metric"])
        first = [entry.plan.primary["metric"] for entry in self.entries]
        return [name for name in dict.fromkeys([*first, *headlines(), *METRIC_INFO]) if name in present]

    @property
    def first(self) -> list[str]:
        """The metrics to show first: the primary ones that are side by side, or else the first of the others."""
        primary = {entry.plan.primary["metric"] for entry in self.entries}
        return [name for name in self.metrics if name in primary] or self.metrics[:1]


def read_entry(label: str, plan: SavedPlan, store: Store) -> Entry:
    """Reads a study. Raises UserError where none of its evaluations has finished."""
    facts = gather(plan, store)
    if not any(point.jobs["evaluation"] in facts.done for point in plan.points):
        raise UserError(f"{label} at scale {plan.scale} has no finished evaluation yet; run it with: {command_of(plan)}")
    stands = registration_status(plan, facts.done)
    comparison = compare_study(plan, store, facts, alpha=level(stands), exploratory=False)
    datasets = {}
    for point in plan.points:
        if (ref := point.jobs.get("dataset")) is not None and point.game not in datasets:
            config = config_of(store, ref)
            datasets[point.game] = {"dataset": str(ref), **({} if config is None else flat(to_plain(config)))}
    return Entry(label, plan, facts, comparison, stands, tuple(gates(plan, store, facts)), datasets)


def labels(plans: Sequence[SavedPlan]) -> list[str]:
    """A short name for each plan: its study, and where a study is there twice, the overrides in which its sweeps differ.

    Raises UserError where two plans are the same.
    """
    tokens = [[word for word in shlex.split(plan.command)[3:] if not word.startswith(_NOT_RESULTS)] for plan in plans]
    found = []
    for plan, own in zip(plans, tokens, strict=True):
        others = [words for other, words in zip(plans, tokens, strict=True) if other.study == plan.study and other is not plan]
        differing = [word for word in own if any(word not in words for words in others)]
        if others and not differing and plan.scale not in {other.scale for other in plans if other is not plan}:
            differing = [f"scale={plan.scale}"]
        found.append(", ".join([plan.study, *differing]))
    twice = [label for label in found if found.count(label) > 1]
    if twice:
        raise UserError(f"{twice[0]} is named twice; give each sweep of a study the overrides that tell it from the others")
    return found


def sides(entries: Sequence[Entry]) -> list[Side]:
    """The studies grouped by protocol and scale, as far as at least two of them share a game and a metric."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.plan.protocol, entry.plan.scale), []).append(entry)
    found = [Side(tuple(group), _shared(group)) for group in groups.values() if len(group) > 1]
    return [side for side in found if len(side.means)]


def _shared(entries: Sequence[Entry]) -> "pd.DataFrame":
    import pandas as pd

    games = [list(dict.fromkeys(point.game for point in entry.plan.points)) for entry in entries]
    one = {entry.plan.study for entry in entries} == {entries[0].plan.study} and all(len(own) == 1 for own in games)
    renamed = {own[0]: ONE_GAME for own in games} if one and len({own[0] for own in games}) > 1 else {}
    parts = []
    for entry in entries:
        table = entry.facts.table
        known = [name for name in dict.fromkeys(table["metric"]) if name in METRIC_INFO]
        kept = [
            name for name in known if not METRIC_INFO[name].cost and (not METRIC_INFO[name].detail or name == entry.plan.primary["metric"])
        ]
        means = seed_means(table[table["metric"].isin(kept)])
        parts.append(means.assign(study=entry.label, game=means["game"].replace(renamed)))
    means = pd.concat(parts, ignore_index=True)[["study", "game", "variant", "metric", "mean", "low", "high"]]
    of_models = means[means["variant"].isin({point.variant for entry in entries for point in entry.plan.points})]
    studies = of_models.groupby(["game", "metric"], sort=False)["study"].nunique()
    both = set(studies[studies > 1].index)
    return means[[cell in both for cell in zip(means["game"], means["metric"], strict=True)]].reset_index(drop=True)


def differing(side: Side, metric: str) -> list[str]:
    """A sentence for each setting of the evaluations that `metric` depends on and in which the studies differ."""
    unused = unused_settings(metric)
    found = []
    for key, values in _values(side.entries).items():
        if key.startswith(_EVALUATION) and key not in (*_NOT_MEASURED, *unused) and len(set(values.values())) > 1:
            found.append(f"{key} differs: {_by_study(values)}")
    return found


def _values(entries: Sequence[Entry]) -> dict[str, dict[str, str]]:
    """By setting of the evaluations, for each study its values over variants."""
    keys = dict.fromkeys(key for entry in entries for settings in entry.facts.measured.values() for key in settings)
    return {
        key: {entry.label: _joined(settings.get(key) for settings in entry.facts.measured.values()) for entry in entries} for key in keys
    }


def _joined(values: Iterator[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def _by_study(values: Mapping[str, str]) -> str:
    return "; ".join(f"{label}: {value or 'none'}" for label, value in values.items())


def warnings(entries: Sequence[Entry]) -> list[str]:
    """What a reader must know before comparing numbers of different studies, a sentence each."""
    import pandas as pd

    said = []
    for what in ("protocol", "scale"):
        values = {entry.label: str(getattr(entry.plan, what)) for entry in entries}
        if len(set(values.values())) > 1:
            said.append(f"The {what}s differ, so these studies do not share a table: {_by_study(values)}.")
    for entry in entries:
        evaluations = {point.jobs["evaluation"] for point in entry.plan.points}
        done = sum(ref in entry.facts.done for ref in evaluations)
        if done < len(evaluations):
            said.append(f"{entry.label} is incomplete: {done} of {len(evaluations)} evaluations have finished.")
    said += _games_and_datasets(entries)
    seeds = {entry.label: ", ".join(map(str, sorted({point.seed for point in entry.plan.points}))) for entry in entries}
    if len(set(seeds.values())) > 1:
        said.append(f"The seeds differ: {_by_study(seeds)}.")
    said += _shared_trainings(entries)
    conditions = {entry.label: "; ".join(sorted(set(entry.facts.conditions.values()))) for entry in entries if entry.facts.conditions}
    if len(set(conditions.values())) > 1:
        said.append(f"The agents were scored under different conditions: {_by_study(conditions)}.")
    ran = version_mixtures(versions(StudyFacts(entries[0].facts.table, _recorded(entries), {}, {})))
    tables = pd.concat([entry.facts.table for entry in entries], ignore_index=True)
    nothing = [f"In {entry.label}, {note}." for entry in entries for note in uninformative(entry.facts.table)]
    return [*said, *(f"{note[:1].upper()}{note[1:]}." for note in (*mixtures(tables), *ran)), *nothing]


def _recorded(entries: Sequence[Entry]) -> dict[Any, Mapping[str, Any]]:
    return {ref: recorded for entry in entries for ref, recorded in entry.facts.recorded.items()}


def _games_and_datasets(entries: Sequence[Entry]) -> list[str]:
    said = []
    games = {entry.label: list(dict.fromkeys(point.game for point in entry.plan.points)) for entry in entries}
    if len({tuple(sorted(own)) for own in games.values()}) > 1:
        said.append(f"The games differ: {_by_study({label: ', '.join(own) for label, own in games.items()})}.")
    for game in dict.fromkeys(game for own in games.values() for game in own):
        known = {entry.label: entry.datasets[game] for entry in entries if game in entry.datasets}
        if len({settings["dataset"] for settings in known.values()}) > 1:
            keys = dict.fromkeys(key for settings in known.values() for key in settings if key != "dataset")
            apart = [key for key in keys if len({str(settings.get(key)) for settings in known.values()}) > 1] or ["dataset"]
            words = {label: ", ".join(f"{key} = {settings.get(key)}" for key in apart[:4]) for label, settings in known.items()}
            said.append(
                f"The datasets of {game} differ ({_by_study(words)}). The models were trained and measured on different frames, so a "
                "difference may come from the data alone: compare the rows of copy-last-frame."
            )
    return said


def _shared_trainings(entries: Sequence[Entry]) -> list[str]:
    found: dict[Any, set[str]] = {}
    for entry in entries:
        for point in entry.plan.points:
            for ref in point.jobs.values():
                if ref.kind.startswith("train_"):
                    found.setdefault(ref, set()).add(entry.label)
    number = sum(len(owners) > 1 for owners in found.values())
    return [f"{number} trainings are shared between the studies, so their results are not independent."] if number else []
