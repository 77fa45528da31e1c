"""Registration of a study: its comparison, recorded before any evaluation finishes. Files: registration_files.py. No torch or pandas."""

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
"""The values of keys that a primary comparison leaves out."""
_EXPLORATORY = "All results are exploratory."


@dataclass(frozen=True)
class RegistrationStatus:
    """The relation of a plan and its finished evaluations to the study's registration."""

    kind: Kind
    """`late`: evaluations of the study had finished before it was registered. `trainings seen`: none of these had, but evaluations of the
    same trainings with other settings. `changed`: the plan's statement differs from the registration."""
    confirmatory: bool
    """Whether the primary comparison may be reported as planned. If not, all results are exploratory."""
    alpha: float
    """The family-wise level of the primary comparison: 0.05, or the share that this planned look spends."""
    sentence: str
    changes: tuple[str, ...] = ()
    """Differences from the registration, such as "margin 0.005 -> 0.01"."""
    registration: Registration | None = None
    trace: tuple[str, ...] = ()
    """Sentences about other statements that sweeps used after the registration, and about reversions."""

    def plain(self) -> dict[str, Any]:
        """The status as JSON data."""
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
    """Registers a plan, if that is still possible. Returns the valid registration and whether this call wrote it.

    The first registration is always written. It lists the evaluations that had already finished: the study's own, and those of the same
    trainings with other settings. A plan with another statement is written as an amendment as long as no such evaluation has finished, or
    if none of them belongs to the plan's seeds (a pilot study had others). Otherwise only the change is noted, once. A plan with fewer
    seeds is a part of the registered one, and becomes an amendment only with `fewer_seeds`. Files are created exclusively and never
    changed. Raises DamagedFile if a registration was edited or truncated.
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
    """The registration status that a sweep of the plan would have, in one or two sentences. Writes nothing.

    Raises UserError if a folder in the path is a link, which a sweep refuses.
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
    """The valid registration for a plan, the content to register, and the finished evaluations that prevent it.

    The content is None if the plan is registered as it is, and if evaluations prevent an amendment.
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
    """The relation of a plan to the newest registration of any of its seeds. `finished` are the done jobs.

    Without a registration, or if one of its files is damaged, the study is "not registered". Only reads files.
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
    """The status of a plan with registered looks. A look is valid if exactly its first n seeds have finished and n is one of the looks.

    The seeds come in the order of `seed_order`, so that they cannot be selected by their results.
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
    """Evaluations that finished before the registration: the resulting kind of status, and sentences that name the studies. None if there
    were none.

    The registration lists the evaluations that it knew, and all record when they finished: some may have been in another store at that time
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
    """The other studies that planned these evaluations, in brackets. Empty if no other study did."""
    own = f"{plan.folder.parent.name} (scale {plan.folder.name})"
    names = [f"{count} by {name}" for name, count in studies_of(root, refs).items() if name != own]
    return f" ({', '.join(names)})" if names else ""


def _count(many: int) -> str:
    return f"{many} evaluation{'' if many == 1 else 's'}"


def _trace(plan: SavedPlan, last: Registration) -> Iterator[str]:
    """One sentence for each other statement that a sweep used after evaluations had finished, except this plan's own."""
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
    """Notes that a sweep uses the registered statement again, if the last note of this registration is about a change."""
    changed, returned = notes(plan.folder, last), notes(plan.folder, last, reverted=True)
    if changed and (not returned or returned[-1][1]["time"] < changed[-1][1]["time"]):
        names = (f"{REVERTED}{count}.json" for count in itertools.count(1))  # names of other registrations' or damaged files are in use
        next(name for name in names if write_note(plan.folder / name, _statement(plan), [], last))


def _changed(kind: Kind, last: Registration, plan: SavedPlan, finished: Collection[JobRef], changes: tuple[str, ...]) -> RegistrationStatus:
    known = {*_evaluations(plan).values(), *last.evaluations.values()}
    noted = _noted(plan)
    seen = sum(ref in finished for ref in known) if noted is None else noted
    what = "Changed" if kind == "changed" else "Seeds added"
    when = f"after {seen} finished evaluation{'' if seen == 1 else 's'}" if seen else "since, and not registered again"
    words = f"{what} {when}: {'; '.join(changes)}. {_EXPLORATORY} The registration is of {last.words}."
    return RegistrationStatus(kind, False, ALPHA, words, changes, last)


# A plan's statement, and its differences from the registered one


def _statement(plan: SavedPlan) -> dict[str, Any]:
    """Everything that a registration fixes, except the evaluations, as JSON data."""
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
    """The trainings and agents of a plan's evaluations."""
    return {ref for point in plan.points for role, ref in point.jobs.items() if role in ("world_model", "agent")}


def _root(plan: SavedPlan) -> Path:
    """The store of a plan's folder (see plan.study_folder)."""
    return plan.folder.parents[2]


def _of_seeds(found: list[Registration], plan: SavedPlan) -> Registration | None:
    """The newest registration that shares a seed with a plan, or else the newest of all. A pilot study keeps its own."""
    seeds = set(_seeds(plan))
    return next((old for old in reversed(found) if seeds & set(old.content["seeds"])), found[-1] if found else None)


def _are_of_other_seeds(finished: list[JobRef], plan: SavedPlan, found: list[Registration]) -> bool:
    """Whether the plan's seeds are new: no finished evaluation belongs to one of them or to the plan's trainings, and no registered look
    needs them. They are not new if a training does not state its seed."""
    root, own, needed = _root(plan), set(_seeds(plan)), {seed for old in found for seed in seed_order(old.content)}
    trained = {training_of(root, ref) for ref in finished}
    seeds = {None if ref is None else seed_of(root, ref) for ref in trained}
    return None not in seeds and not own & (seeds | needed) and not trained & _trainings(plan)


def _changes(last: Registration, plan: SavedPlan) -> tuple[str, ...]:
    """The differences in a plan's statement. More or fewer of the registered seeds are not among them."""
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
    """The seeds that a plan adds to the registered ones, in words. Empty if there are none."""
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
    """The planned evaluations in the format of a file: variant, game, seed, job."""
    return [[*cell, str(ref)] for cell, ref in _evaluations(plan).items()]


def _noted(plan: SavedPlan) -> int | None:
    """Number of evaluations that had finished when a sweep first used this plan's statement. None if no sweep noted it."""
    try:
        return len(read_content(_change_file(plan))["finished"])
    except (FileNotFoundError, DamagedFile, KeyError, TypeError):
        return None


def _change_file(plan: SavedPlan) -> Path:
    evaluations = [[*cell, *ref] for cell, ref in _evaluations(plan).items()]
    return plan.folder / f"change-{digest([_statement(plan), evaluations])[:12]}.json"
