"""Registration of a study: what its comparison is, written down before any of its evaluations has finished. No torch, no pandas.

The files are those of registration_files.py.
"""

import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diamond_bench.store.evaluated import evaluations_of, finish_time, now, read_time, seed_of, training_of
from diamond_bench.store.files import DamagedFile, digest, require_folders, write_exclusive
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.provenance import provenance
from diamond_bench.studies.looks import ALPHA, look_level, look_words, seed_order
from diamond_bench.studies.margin import parse_margin
from diamond_bench.studies.plan import SavedPlan
from diamond_bench.studies.registration_files import (
    REVERTED,
    Registration,
    moment,
    notes,
    number,
    read,
    read_content,
    registrations,
    sealed,
    studies_of,
    swept,
    write_note,
)

Kind = Literal["registered", "not registered", "late", "trainings seen", "changed", "seeds added", "planned look"]
_UNSTATED = {"baseline": {}, "margin": 0.0, "variants": [], "test": "permutation", "looks": [], "holm_equivalence": False}
"""Values that hold where a primary comparison leaves a key out."""
_EXPLORATORY = "All results are exploratory."


@dataclass(frozen=True)
class RegistrationStatus:
    """How a plan and its finished evaluations stand to the study's registration."""

    kind: Kind
    """`late`: evaluations of the study had finished before it was registered. `trainings seen`: none of these had, but evaluations of the
    same trainings under other settings. `changed`: the plan states something else than the registration."""
    confirmatory: bool
    """Whether the primary comparison may be reported as planned; where it is false, all results are exploratory."""
    alpha: float
    """The family-wise level of the primary comparison: 0.05, or the share of it that this planned look spends."""
    sentence: str
    changes: tuple[str, ...] = ()
    """What differs from the registration, such as "margin 0.005 -> 0.01"."""
    registration: Registration | None = None
    trace: tuple[str, ...] = ()
    """Sentences on other statements that sweeps used after the registration, and on returns from them."""

    def plain(self) -> dict[str, Any]:
        """The standing as JSON holds it."""
        found = self.registration
        registered = {} if found is None else {"file": found.file.name, "sha256": found.sha256, "time": found.content["time"]}
        words = {
            "kind": self.kind,
            "confirmatory": self.confirmatory,
            "alpha": self.alpha,
            "sentence": self.sentence,
            "trace": list(self.trace),
        }
        return {**words, "changes": list(self.changes), **registered}


def register(plan: SavedPlan, is_finished: Callable[[JobRef], bool], fewer_seeds: bool = False) -> tuple[Registration, bool]:
    """Registers a plan, where that is still possible: returns the registration that counts and whether this call wrote it.

    The first registration is always written. It lists the evaluations that had already finished: the study's own, and those of the same
    trainings under other settings. A plan that states something else is written as an amendment as long as no such evaluation has
    finished, or none of the plan's seeds (a pilot study had others). Otherwise only the change is noted, once. A plan of fewer seeds is a
    part of the registered one, and is an amendment only with `fewer_seeds`. Files are created exclusively and never changed.
    Raises DamagedFile where a registration was edited or truncated.
    """
    require_folders(plan.folder.parents[2], plan.folder)
    while True:
        found = registrations(plan.folder)
        last, content, seen = _due(plan, found, is_finished, fewer_seeds)
        if content is None:
            assert last is not None
            if seen and registration_status(plan, seen).kind in ("changed", "seeds added"):
                write_note(_change_file(plan), {**_statement(plan), "evaluations": _listed(plan)}, seen, last)
            elif not seen:
                _note_return(plan, last)
            return last, False
        name = f"registration-{number(found[-1].file) + 1}.json" if found else "registration.json"
        if write_exclusive(plan.folder / name, sealed(content)):
            return read(plan.folder / name), True


def preview_registration(plan: SavedPlan, is_finished: Callable[[JobRef], bool]) -> str:
    """How a sweep of the plan would stand to its registration, in a sentence or two. Writes nothing.

    Raises UserError where a folder on the way is a link, which a sweep refuses.
    """
    require_folders(_root(plan), plan.folder)
    finished = {ref for ref in _evaluations(plan).values() if is_finished(ref)}
    try:
        last, content, _ = _due(plan, registrations(plan.folder), is_finished, False)
    except DamagedFile:
        return registration_status(plan, finished).sentence
    if content is None:
        return registration_status(plan, finished).sentence
    if last is not None:
        changed = "; ".join([*_changes(last, plan), *filter(None, [_seeds_added(last, plan)])])
        known = "no evaluation of its seeds has finished" if content["other_seeds"] else "no evaluation has finished"
        return f"A sweep amends the registration of {last.words}, since {known}: {changed}."
    before = {
        "of the study": {JobRef.parse(text) for text in content["finished"]},
        "of the same trainings under other settings": {JobRef.parse(text) for text in content["related"]},
    }
    seen = [f"{_count(len(refs))} {what}{_by(_root(plan), refs, plan)}" for what, refs in before.items() if refs]
    late = f" Already finished: {', and '.join(seen)}. {_EXPLORATORY}" if seen else ""
    return f"Not registered yet: a sweep registers this comparison before its first job.{late}"


def _due(
    plan: SavedPlan, found: list[Registration], is_finished: Callable[[JobRef], bool], fewer_seeds: bool
) -> tuple[Registration | None, dict[str, Any] | None, list[JobRef]]:
    """The registration that counts for a plan, the content that has to be registered, and the finished evaluations that prevent it.

    The content is None where the plan is registered as it is, and where evaluations prevent an amendment.
    """
    last = _of_seeds(found, plan)
    differs = last is None or bool(_changes(last, plan) or _seeds_added(last, plan))
    fewer = fewer_seeds and last is not None and set(_seeds(plan)) != set(last.content["seeds"])
    if last is not None and not differs and not fewer:
        return last, None, []
    known = {*_evaluations(plan).values(), *swept(plan.folder), *(ref for old in found for ref in old.evaluations.values())}
    finished = sorted(ref for ref in known if is_finished(ref))
    related = sorted(evaluations_of(_root(plan), _trainings(plan)) - known)
    other_seeds = finished if differs and not related and _are_of_other_seeds(finished, plan, found) else []
    if last is not None and (related or finished != other_seeds):
        return last, None, [*finished, *related]
    versions = provenance()
    content = {
        **_statement(plan),
        "question": plan.question,
        "evaluations": _listed(plan),
        "finished": [] if other_seeds else list(map(str, finished)),
        "related": list(map(str, related)),
        "other_seeds": list(map(str, other_seeds)),
        "time": now(),
        "version": versions["versions"].get("diamond-bench", ""),
        "commit": versions["commit"],
        "amends": found[-1].sha256 if found else None,
    }
    return last, content, []


def registration_status(plan: SavedPlan, finished: Collection[JobRef]) -> RegistrationStatus:
    """How a plan stands to the newest registration of any of its seeds; `finished` are the jobs that are done.

    Without a registration, or where a file of it is damaged, the study is "not registered". Reads files only.
    """
    stands = _status_of(plan, finished)
    return stands if stands.registration is None else replace(stands, trace=tuple(_trace(plan, stands.registration)))


def _status_of(plan: SavedPlan, finished: Collection[JobRef]) -> RegistrationStatus:
    try:
        found = registrations(plan.folder)
    except DamagedFile as error:
        return RegistrationStatus("not registered", False, ALPHA, f"Not registered: {error}. {_EXPLORATORY}")
    last = _of_seeds(found, plan)
    if last is None:
        words = "Not registered: nothing states that this comparison was chosen before the study ran."
        return RegistrationStatus("not registered", False, ALPHA, f"{words} {_EXPLORATORY}")
    changes = _changes(last, plan)
    if changes:
        return _changed("changed", last, plan, finished, changes)
    if before := _seen_before(last, plan, finished):
        kind, words = before
        return RegistrationStatus(kind, False, ALPHA, f"{words} {_EXPLORATORY}", registration=last)
    planned, amendment = last.evaluations, number(last.file) - 1
    amended = f" as amendment {amendment}" if amendment else ""
    words = f"Registered on {last.words}{amended}, before any of its {len(planned)} evaluations had finished."
    if known := len(last.content.get("other_seeds", [])):
        words = f"{words} {known} evaluation{' of other seeds was' if known == 1 else 's of other seeds were'} known by then."
    looks = last.content["primary"].get("looks", [])
    if looks:
        return _at_look(last, plan, finished, looks, words)
    if added := _seeds_added(last, plan):
        return _changed("seeds added", last, plan, finished, (f"{added}, and no looks were registered",))
    done = sum(ref in finished for ref in planned.values())
    if 0 < done < len(planned):
        words = f"{words} Incomplete: these results hold {done} of them; all are exploratory until they hold the others."
    return RegistrationStatus("registered", done == len(planned), ALPHA, words, registration=last)


def _at_look(last: Registration, plan: SavedPlan, finished: Collection[JobRef], looks: list[int], words: str) -> RegistrationStatus:
    """The standing of a plan with registered looks: a look is valid when exactly its first n seeds have finished, n one of the looks.

    The seeds come in the order of `seed_order`: nobody can choose them.
    """
    seeds, order = _seeds(plan), seed_order(last.content)
    unfinished = {seed for (_, _, seed), ref in _evaluations(plan).items() if ref not in finished}
    begun = {seed for (_, _, seed), ref in _evaluations(plan).items() if ref in finished}
    count, listed = len(begun), ", ".join(map(str, looks))
    if count in looks and begun == set(order[:count]) and not begun & unfinished:
        level = look_level(looks, count)
        which = f"planned look {looks.index(count) + 1} of {len(looks)}"
        look = f"These results are {which}, at {count} seeds, tested at a level of {100 * level:.3g}%."
        return RegistrationStatus("planned look", True, level, f"{words} {look}", registration=last)
    added = _seeds_added(last, plan)
    if added and (len(seeds) not in looks or set(seeds) != set(order[: len(seeds)])):
        reason = f"{added}, which is no registered look (the looks are at the first {listed} seeds)"
        return _changed("seeds added", last, plan, finished, (reason,))
    level = look_level(looks, len(seeds)) if len(seeds) in looks else ALPHA
    words = (
        f"{words} These results are no planned look. The looks are {look_words(looks)}, each with all evaluations of its seeds finished."
    )
    return RegistrationStatus("registered", False, level, f"{words} {_EXPLORATORY}", registration=last)


def _seen_before(last: Registration, plan: SavedPlan, finished: Collection[JobRef]) -> tuple[Kind, str] | None:
    """What had finished before the registration: its kind of standing, and sentences that name the studies; None where nothing had.

    The registration lists the evaluations that it knew, and all say when they finished: some may have been in another store at that time
    (see `merge`).
    """
    root, registered = _root(plan), read_time(last.content["time"])
    own = {*_evaluations(plan).values(), *last.evaluations.values()}
    times = {ref: finish_time(root, ref) for ref in {*evaluations_of(root, _trainings(plan)), *(own & set(finished))}}
    early = {ref for ref, at in times.items() if at is not None and at < registered}
    known = {JobRef.parse(text) for text in last.content["finished"]}
    before = (early & own) | known
    others = (early - own) | {JobRef.parse(text) for text in last.content.get("related", [])}
    untimed = {ref for ref, at in times.items() if at is None} - before - others
    numbers = {
        "{evaluations} of the study had already finished": before,
        "{evaluations} of the same trainings under other settings had finished": others - before,
        "{evaluations} with no record of the time may have finished": untimed,
    }
    parts = [words.format(evaluations=_count(len(refs))) + _by(root, refs, plan) for words, refs in numbers.items() if refs]
    if not parts:
        return None
    if before or untimed:
        return "late", f"Registered late, on {last.words}: {', and '.join(parts)}."
    return "trainings seen", f"Registered on {last.words}, before any evaluation of its own, but on trainings already seen: {parts[0]}."


def _by(root: Path, refs: Collection[JobRef], plan: SavedPlan) -> str:
    """Which other studies planned these evaluations, in brackets; empty where no other study did."""
    own = f"{plan.folder.parent.name} (scale {plan.folder.name})"
    names = [f"{count} by {name}" for name, count in studies_of(root, refs).items() if name != own]
    return f" ({', '.join(names)})" if names else ""


def _count(many: int) -> str:
    return f"{many} evaluation{'' if many == 1 else 's'}"


def _trace(plan: SavedPlan, last: Registration) -> Iterator[str]:
    """A sentence for each other statement that a sweep used after evaluations had finished, this plan's own apart."""
    returns = [content["time"] for _, content in notes(plan.folder, last, reverted=True)]
    for file, content in notes(plan.folder, last):
        if file == _change_file(plan):
            continue
        cells = {(variant, game, seed): JobRef.parse(ref) for variant, game, seed, ref in content.get("evaluations", [])}
        changed = [*_described(last, content, cells)]
        if set(content["seeds"]) > set(last.content["seeds"]):
            changed.append(f"{len(last.content['seeds'])} -> {len(content['seeds'])} seeds")
        back = next((time for time in returns if time > content["time"]), None)
        end = f"reverted at {moment(back)}" if back else "no sweep has reverted it since"
        what = "; ".join(changed) or "settings or code revision"
        yield f"Changed at {moment(content['time'])}, after {_count(len(content['finished']))} had finished ({what}); {end}."


def _note_return(plan: SavedPlan, last: Registration) -> None:
    """Notes that a sweep uses the registered statement again, where the last note of this registration is of a change."""
    changed, returned = notes(plan.folder, last), notes(plan.folder, last, reverted=True)
    if changed and (not returned or returned[-1][1]["time"] < changed[-1][1]["time"]):
        names = (f"{REVERTED}{count}.json" for count in itertools.count(1))  # of other registrations, or damaged, some are taken
        next(name for name in names if write_note(plan.folder / name, _statement(plan), [], last))


def _changed(kind: Kind, last: Registration, plan: SavedPlan, finished: Collection[JobRef], changes: tuple[str, ...]) -> RegistrationStatus:
    known = {*_evaluations(plan).values(), *last.evaluations.values()}
    noted = _noted(plan)
    seen = sum(ref in finished for ref in known) if noted is None else noted
    what = "Changed" if kind == "changed" else "Seeds added"
    when = f"after {seen} finished evaluation{'' if seen == 1 else 's'}" if seen else "since, and not registered again"
    words = f"{what} {when}: {'; '.join(changes)}. {_EXPLORATORY} The registration is of {last.words}."
    return RegistrationStatus(kind, False, ALPHA, words, changes, last)


# What a plan states, and how it differs from what was registered


def _statement(plan: SavedPlan) -> dict[str, Any]:
    """All that a registration fixes, the evaluations apart, as JSON holds it."""
    stated = {"metric": plan.primary["metric"], **{key: plan.primary.get(key, value) for key, value in _UNSTATED.items()}}
    stated["margin"] = parse_margin(stated["margin"], "margin").plain()
    games, variants = ({getattr(point, name): None for point in plan.points} for name in ("game", "variant"))
    about = {"study": plan.study, "scale": plan.scale, "primary": stated}
    lists = {"variants": list(variants), "games": list(games), "seeds": _seeds(plan)}
    return dict(json.loads(json.dumps({**about, **lists})))


def _seeds(plan: SavedPlan) -> list[int]:
    return list(dict.fromkeys(point.seed for point in plan.points))


def _evaluations(plan: SavedPlan) -> dict[tuple[str, str, int], JobRef]:
    return {(point.variant, point.game, point.seed): point.jobs["evaluation"] for point in plan.points}


def _trainings(plan: SavedPlan) -> set[JobRef]:
    """The trainings and agents that a plan's evaluations are of."""
    return {ref for point in plan.points for role, ref in point.jobs.items() if role in ("world_model", "agent")}


def _root(plan: SavedPlan) -> Path:
    """The store that a plan's folder lies in (see plan.study_folder)."""
    return plan.folder.parents[2]


def _of_seeds(found: list[Registration], plan: SavedPlan) -> Registration | None:
    """The newest registration that shares a seed with a plan, or else the newest of all: a pilot study keeps its own."""
    seeds = set(_seeds(plan))
    return next((old for old in reversed(found) if seeds & set(old.content["seeds"])), found[-1] if found else None)


def _are_of_other_seeds(finished: list[JobRef], plan: SavedPlan, found: list[Registration]) -> bool:
    """Whether the plan's seeds are new: no finished evaluation is of one of them or of the plan's trainings, and no registered look needs
    them. Where a training does not say its seed, they are not."""
    root, own, needed = _root(plan), set(_seeds(plan)), {seed for old in found for seed in seed_order(old.content)}
    trained = {training_of(root, ref) for ref in finished}
    seeds = {None if ref is None else seed_of(root, ref) for ref in trained}
    return None not in seeds and not own & (seeds | needed) and not trained & _trainings(plan)


def _changes(last: Registration, plan: SavedPlan) -> tuple[str, ...]:
    """What a plan states differently. More or fewer of the registered seeds are no such change."""
    return tuple(_described(last, _statement(plan), _evaluations(plan)))


def _described(last: Registration, now: Mapping[str, Any], evaluations: Mapping[tuple[str, str, int], JobRef]) -> Iterator[str]:
    for name in ("study", "scale"):
        if now[name] != last.content[name]:
            yield f"{name} {last.content[name]} -> {now[name]}"
    for name, value in now["primary"].items():
        before = last.content["primary"].get(name, _UNSTATED.get(name))
        if value != before:
            label = "variants that answer the question" if name == "variants" else name
            yield f"{label} {_shown(before)} -> {_shown(value)}"
    for name in ("variants", "games"):
        before, after = last.content[name], now[name]
        for verb, some in (("added", [v for v in after if v not in before]), ("removed", [v for v in before if v not in after])):
            if some:
                yield f"{name} {verb}: {', '.join(some[:5])}{f' and {len(some) - 5} more' if len(some) > 5 else ''}"
    before, after = last.content["seeds"], now["seeds"]
    if not (set(before) <= set(after) or set(after) <= set(before)):
        yield f"seeds {_shown(before)} -> {_shown(after)}"
    other = sum(evaluations[cell] != ref for cell, ref in last.evaluations.items() if cell in evaluations)
    if other:
        yield f"settings or code revision of {other} evaluations"


def _seeds_added(last: Registration, plan: SavedPlan) -> str:
    """The seeds that a plan has beyond the registered ones, in words; empty where there are none."""
    before, after = last.content["seeds"], _seeds(plan)
    return f"{len(before)} -> {len(after)} seeds" if set(after) > set(before) else ""


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_shown(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]" if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# Notes of changes


def _listed(plan: SavedPlan) -> list[list[Any]]:
    """The planned evaluations as a file lists them: variant, game, seed, job."""
    return [[*cell, str(ref)] for cell, ref in _evaluations(plan).items()]


def _noted(plan: SavedPlan) -> int | None:
    """How many evaluations had finished when a sweep first used this plan's statement; None where no sweep noted that."""
    try:
        return len(read_content(_change_file(plan))["finished"])
    except (FileNotFoundError, DamagedFile, KeyError, TypeError):
        return None


def _change_file(plan: SavedPlan) -> Path:
    evaluations = [[*cell, *ref] for cell, ref in _evaluations(plan).items()]
    return plan.folder / f"change-{digest([_statement(plan), evaluations])[:12]}.json"
