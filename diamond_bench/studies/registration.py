"""Registration of a study: what its comparison is, written down before any of its evaluations has finished. No torch, no pandas.

outputs/studies/<study>/<scale>/registration.json     written once, before the first job of the first sweep
                                registration-2.json   an amendment, written while no evaluation of its seeds had finished
                                change-<digest>.json  when a sweep first used another statement, and which evaluations had finished by then
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diamond_bench.errors import UserError
from diamond_bench.studies.evaluated import evaluations_of, finish_time, now, read_time, seed_of, training_of
from diamond_bench.studies.files import DamagedFile, digest, read_bytes, read_json, require_folders, write_exclusive
from diamond_bench.studies.jobspec import JobRef
from diamond_bench.studies.looks import ALPHA, look_level
from diamond_bench.studies.margin import parse_margin
from diamond_bench.studies.plan import SavedPlan
from diamond_bench.studies.provenance import provenance
from diamond_bench.studies.shapes import JOBS, REGISTRATION, fit

Kind = Literal["registered", "not registered", "late", "changed", "seeds added", "planned look"]
_NAME = re.compile(r"registration(?:-(\d+))?\.json")
_KEYS = {"study", "scale", "primary", "variants", "games", "seeds", "evaluations", "finished", "time"}
_UNSTATED = {"baseline": {}, "margin": 0.0, "variants": [], "test": "permutation", "looks": [], "holm_equivalence": False}
"""Values that hold where a primary comparison leaves a key out."""
CHANGES = "change-*.json"
"""Files of changes that sweeps noted after evaluations had finished."""
_EXPLORATORY = "All results are exploratory."


@dataclass(frozen=True)
class Registration:
    """One registration file whose SHA-256 fits its content."""

    file: Path
    content: Mapping[str, Any]
    sha256: str
    """Of the content as canonical JSON (sorted keys, no spaces, ASCII)."""

    @property
    def evaluations(self) -> dict[tuple[str, str, int], JobRef]:
        """The planned evaluations by variant, game and seed."""
        return {(variant, game, seed): JobRef.parse(ref) for variant, game, seed, ref in self.content["evaluations"]}

    @property
    def words(self) -> str:
        """When it was written and under which hash: "2026-11-28 12:00 UTC (SHA-256 ab12...)"."""
        return f"{self.content['time'][:16].replace('T', ' ')} UTC (SHA-256 {self.sha256[:12]}...)"


@dataclass(frozen=True)
class Standing:
    """How a plan and its finished evaluations stand to the study's registration."""

    kind: Kind
    """`late`: evaluations of the study, or of the same trainings under other settings, had finished before it was registered. `changed`:
    the plan states something else than the registration."""
    confirmatory: bool
    """Whether the primary comparison may be reported as planned; where it is false, all results are exploratory."""
    alpha: float
    """The family-wise level of the primary comparison: 0.05, or the share of it that this planned look spends."""
    sentence: str
    changes: tuple[str, ...] = ()
    """What differs from the registration, such as "margin 0.005 -> 0.01"."""
    registration: Registration | None = None

    def plain(self) -> dict[str, Any]:
        """The standing as JSON holds it."""
        found = self.registration
        registered = {} if found is None else {"file": found.file.name, "sha256": found.sha256, "time": found.content["time"]}
        words = {"kind": self.kind, "confirmatory": self.confirmatory, "alpha": self.alpha, "sentence": self.sentence}
        return {**words, "changes": list(self.changes), **registered}


def registrations(folder: Path) -> list[Registration]:
    """The registrations in a study's folder, oldest first.

    Raises DamagedFile for a file that is no registration as it was written, or that does not amend the one before it.
    """
    found = [_read(file) for file in sorted((file for file in folder.glob("registration*.json") if _number(file)), key=_number)]
    for number, registration in enumerate(found, 1):
        before = found[number - 2].sha256 if number > 1 else None
        if _number(registration.file) != number or registration.content.get("amends") != before:
            raise DamagedFile(registration.file, "it does not amend the registration before it; restore the missing or replaced file")
    return found


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
        last = _of_seeds(found, plan)
        differs = last is None or bool(_changes(last, plan) or _seeds_added(last, plan))
        fewer = fewer_seeds and last is not None and set(_seeds(plan)) != set(last.content["seeds"])
        if last is not None and not differs and not fewer:
            return last, False
        known = {*_evaluations(plan).values(), *_swept(plan.folder), *(ref for old in found for ref in old.evaluations.values())}
        finished = sorted(ref for ref in known if is_finished(ref))
        related = sorted(evaluations_of(_root(plan), _trainings(plan)) - known)
        other_seeds = finished if differs and not related and _are_of_other_seeds(finished, plan, found) else []
        if last is not None and (related or finished != other_seeds):
            if standing(plan, finished).kind in ("changed", "seeds added"):
                _note_change(plan, last, [*finished, *related])
            return last, False
        name = f"registration-{_number(found[-1].file) + 1}.json" if found else "registration.json"
        versions = provenance()
        content = {
            **_statement(plan),
            "question": plan.question,
            "evaluations": [[*cell, str(ref)] for cell, ref in _evaluations(plan).items()],
            "finished": [] if other_seeds else list(map(str, finished)),
            "related": list(map(str, related)),
            "other_seeds": list(map(str, other_seeds)),
            "time": now(),
            "version": versions["versions"].get("diamond-bench", ""),
            "commit": versions["commit"],
            "amends": found[-1].sha256 if found else None,
        }
        if write_exclusive(plan.folder / name, _sealed(content)):
            return _read(plan.folder / name), True


def standing(plan: SavedPlan, finished: Collection[JobRef]) -> Standing:
    """How a plan stands to the newest registration of any of its seeds; `finished` are the jobs that are done.

    Without a registration, or where a file of it is damaged, the study is "not registered". Reads files only.
    """
    try:
        found = registrations(plan.folder)
    except DamagedFile as error:
        return Standing("not registered", False, ALPHA, f"Not registered: {error}. {_EXPLORATORY}")
    last = _of_seeds(found, plan)
    if last is None:
        words = "Not registered: nothing states that this comparison was chosen before the study ran."
        return Standing("not registered", False, ALPHA, f"{words} {_EXPLORATORY}")
    changes = _changes(last, plan)
    if changes:
        return _changed("changed", last, plan, finished, changes)
    if late := _late(last, plan, finished):
        return Standing("late", False, ALPHA, f"Registered late, on {last.words}: {late}. {_EXPLORATORY}", registration=last)
    planned, amendment = last.evaluations, _number(last.file) - 1
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
    return Standing("registered", done == len(planned), ALPHA, words, registration=last)


def _at_look(last: Registration, plan: SavedPlan, finished: Collection[JobRef], looks: list[int], words: str) -> Standing:
    """The standing of a plan with registered looks: a look is valid when exactly its first n seeds have finished, n one of the looks.

    The seeds come in the order of `_order`: nobody can choose them.
    """
    seeds, order = _seeds(plan), _order(last)
    unfinished = {seed for (_, _, seed), ref in _evaluations(plan).items() if ref not in finished}
    begun = {seed for (_, _, seed), ref in _evaluations(plan).items() if ref in finished}
    number, listed = len(begun), ", ".join(map(str, looks))
    if number in looks and begun == set(order[:number]) and not begun & unfinished:
        level = look_level(looks, number)
        look = f"Planned look {looks.index(number) + 1} of {len(looks)}, at {number} seeds, tested at level {level:.3g}."
        return Standing("planned look", True, level, f"{words} {look}", registration=last)
    added = _seeds_added(last, plan)
    if added and (len(seeds) not in looks or set(seeds) != set(order[: len(seeds)])):
        reason = f"{added}, which is no registered look (the looks are at the first {listed} seeds)"
        return _changed("seeds added", last, plan, finished, (reason,))
    level = look_level(looks, len(seeds)) if len(seeds) in looks else ALPHA
    words = f"{words} Incomplete: the registered looks are at {listed} seeds with all of their evaluations finished."
    return Standing("registered", False, level, f"{words} {_EXPLORATORY}", registration=last)


def _order(registration: Registration) -> list[int]:
    """The seeds of all looks in order: the registered ones, then the whole numbers after the largest of them. Empty without looks."""
    seeds, looks = registration.content["seeds"], registration.content["primary"].get("looks", [])
    return [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + looks[-1])][: looks[-1]] if looks else []


def _late(last: Registration, plan: SavedPlan, finished: Collection[JobRef]) -> str:
    """Which evaluations had finished before the registration, in words; empty where none had.

    It lists those that it knew, and all say when they finished: some may have been in another store at that time (see `merge`).
    """
    root, registered = _root(plan), read_time(last.content["time"])
    own = {*_evaluations(plan).values(), *last.evaluations.values()}
    times = {ref: finish_time(root, ref) for ref in {*evaluations_of(root, _trainings(plan)), *(own & set(finished))}}
    early = {ref for ref, at in times.items() if at is not None and at < registered}
    untimed = {ref for ref, at in times.items() if at is None}
    before = {str(ref) for ref in early & own} | set(last.content["finished"])
    others = {str(ref) for ref in early - own} | set(last.content.get("related", []))
    numbers = {
        "of the study's evaluations had already finished": len(before),
        "{evaluations} of the same trainings under other settings had finished": len(others - before),
        "{evaluations} with no record of the time may have finished": len(untimed - {JobRef.parse(text) for text in before | others}),
    }
    parts = [f"{number} {words}".format(evaluations=f"evaluation{'s' * (number > 1)}") for words, number in numbers.items() if number]
    return ", and ".join(parts)


def _changed(kind: Kind, last: Registration, plan: SavedPlan, finished: Collection[JobRef], changes: tuple[str, ...]) -> Standing:
    known = {*_evaluations(plan).values(), *last.evaluations.values()}
    number = _noted(plan)
    number = sum(ref in finished for ref in known) if number is None else number
    what = "Changed" if kind == "changed" else "Seeds added"
    when = f"after {number} finished evaluation{'' if number == 1 else 's'}" if number else "since, and not registered again"
    words = f"{what} {when}: {'; '.join(changes)}. {_EXPLORATORY} The registration is of {last.words}."
    return Standing(kind, False, ALPHA, words, changes, last)


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
    root, own, needed = _root(plan), set(_seeds(plan)), {seed for old in found for seed in _order(old)}
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
        for said, some in (("added", [v for v in after if v not in before]), ("removed", [v for v in before if v not in after])):
            if some:
                yield f"{name} {said}: {', '.join(some[:5])}{f' and {len(some) - 5} more' if len(some) > 5 else ''}"
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


# Files


def _number(file: Path) -> int:
    """1 for registration.json, n for registration-n.json, 0 for another file."""
    found = _NAME.fullmatch(file.name)
    return int(found[1] or 1) if found else 0


def _swept(folder: Path) -> list[JobRef]:
    """The evaluations of every sweep that there was into a study's folder (housekeeping.remember writes them down)."""
    found = []
    for file in folder.glob("jobs/*.json"):
        content = read_json(file)
        fit(content, JOBS, file)
        found += [JobRef(*ref) for ref in content["jobs"] if ref[0].startswith("evaluate_")]
    return found


def _note_change(plan: SavedPlan, last: Registration, finished: list[JobRef]) -> None:
    content = {**_statement(plan), "finished": [str(ref) for ref in finished], "time": now(), "registration": last.sha256}
    write_exclusive(_change_file(plan), _sealed(content))


def _noted(plan: SavedPlan) -> int | None:
    """How many evaluations had finished when a sweep first used this plan's statement; None where no sweep noted that."""
    try:
        return len(_opened(_change_file(plan))["finished"])
    except (FileNotFoundError, DamagedFile, KeyError, TypeError):
        return None


def _change_file(plan: SavedPlan) -> Path:
    evaluations = [[*cell, *ref] for cell, ref in _evaluations(plan).items()]
    return plan.folder / f"change-{digest([_statement(plan), evaluations])[:12]}.json"


def _sealed(content: Mapping[str, Any]) -> bytes:
    return json.dumps({"content": content, "sha256": digest(content)}, indent=1).encode() + b"\n"


def _opened(file: Path) -> dict[str, Any]:
    """The content of a file that `_sealed` made. Raises DamagedFile, FileNotFoundError."""
    found = read_json(file)
    content = found.get("content")
    if not isinstance(content, dict) or digest(content) != found.get("sha256"):
        raise DamagedFile(file, "it was edited or truncated (its SHA-256 does not fit its content); restore it from a copy")
    fit(content, REGISTRATION, file)
    return content


def _read(file: Path) -> Registration:
    content = _opened(file)
    registration = Registration(file, content, digest(content))
    missing = sorted(_KEYS - content.keys())
    try:
        if missing or "metric" not in content["primary"]:
            raise DamagedFile(file, f"it holds no {', '.join(missing) or 'primary.metric'}; restore it from a copy")
        _ = registration.evaluations, _order(registration), read_time(content["time"]), min(content["seeds"]), set(content["finished"])
    except DamagedFile:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise DamagedFile(file, f"unexpected content ({error}); restore it from a copy") from None
    return registration


def export_file(registration: Registration, target: Path) -> None:
    """Copies a registration to a file of the user's. Raises UserError where another file is there, or nothing can be written."""
    data = read_bytes(registration.file)
    try:
        if not write_exclusive(target, data) and target.read_bytes() != data:
            raise UserError(f"{target}: there is another file of this name, which is not overwritten; choose another name")
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None
