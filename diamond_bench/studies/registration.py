"""Registration of a study: what its comparison is, written down before any of its evaluations has finished. No torch, no pandas.

outputs/studies/<study>/<scale>/registration.json     written once, before the first job of the first sweep
                                registration-2.json   an amendment, written while none of the study's evaluations had finished
                                change-<digest>.json  when a sweep first used another statement, and which evaluations had finished by then
"""

import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diamond_bench.errors import UserError
from diamond_bench.studies.files import DamagedFile, digest, read_bytes, read_json, require_folders, write_exclusive
from diamond_bench.studies.jobspec import JobRef
from diamond_bench.studies.looks import ALPHA, look_level
from diamond_bench.studies.margin import parse_margin
from diamond_bench.studies.plan import SavedPlan
from diamond_bench.studies.provenance import provenance
from diamond_bench.studies.shapes import JOBS, REGISTRATION, fit

Kind = Literal["registered", "not registered", "late", "changed", "seeds added", "planned look"]
_NAME = re.compile(r"registration(?:-(\d+))?\.json")
_KEYS = {"study", "scale", "primary", "variants", "games", "seeds", "finished", "time"}
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
    """`late`: evaluations had finished before it was registered. `changed`: the plan states something else than the registration."""
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
    """The registrations in a study's folder, oldest first. Raises DamagedFile for a file that is no registration as it was written."""
    found = [_read(file) for file in sorted((file for file in folder.glob("registration*.json") if _number(file)), key=_number)]
    for registration in found:
        if "evaluations" not in registration.content:
            raise DamagedFile(registration.file, "it lists no evaluations")
    return found


def register(plan: SavedPlan, is_finished: Callable[[JobRef], bool], fewer_seeds: bool = False) -> tuple[Registration, bool]:
    """Registers a plan, where that is still possible: returns the registration that counts and whether this call wrote it.

    The first registration is always written, and lists the evaluations that had already finished. A plan that states something else is
    written as an amendment as long as no evaluation of this study has finished; afterwards only the change is noted, once. A plan of fewer
    seeds is a part of the registered one, and is an amendment only with `fewer_seeds`. Files are created exclusively and never changed.
    Raises DamagedFile where a registration was edited or truncated.
    """
    require_folders(plan.folder.parents[2], plan.folder)
    while True:
        found = registrations(plan.folder)
        fewer = fewer_seeds and found and set(_seeds(plan)) != set(found[-1].content["seeds"])
        if found and not (_changes(found[-1], plan) or _seeds_added(found[-1], plan) or fewer):
            return found[-1], False
        known = {*_evaluations(plan).values(), *_swept(plan.folder), *(ref for old in found for ref in old.evaluations.values())}
        finished = sorted(ref for ref in known if is_finished(ref))
        if found and finished:
            if standing(plan, finished).kind in ("changed", "seeds added"):
                _note_change(plan, found[-1], finished)
            return found[-1], False
        name = f"registration-{_number(found[-1].file) + 1}.json" if found else "registration.json"
        versions = provenance()
        content = {
            **_statement(plan),
            "question": plan.question,
            "evaluations": [[*cell, str(ref)] for cell, ref in _evaluations(plan).items()],
            "finished": [str(ref) for ref in finished],
            "time": _now(),
            "version": versions["versions"].get("diamond-bench", ""),
            "commit": versions["commit"],
            "amends": found[-1].sha256 if found else None,
        }
        if write_exclusive(plan.folder / name, _sealed(content)):
            return _read(plan.folder / name), True


def standing(plan: SavedPlan, finished: Collection[JobRef]) -> Standing:
    """How a plan stands to the newest registration in its folder; `finished` are the jobs that are done.

    Without a registration, or where a file of it is damaged, the study is "not registered". Reads files only.
    """
    try:
        found = registrations(plan.folder)
    except DamagedFile as error:
        return Standing("not registered", False, ALPHA, f"Not registered: {error}. {_EXPLORATORY}")
    if not found:
        words = "Not registered: nothing states that this comparison was chosen before the study ran."
        return Standing("not registered", False, ALPHA, f"{words} {_EXPLORATORY}")
    last = found[-1]
    changes = _changes(last, plan)
    if changes:
        return _changed("changed", last, plan, finished, changes)
    early, planned = last.content["finished"], last.evaluations
    if early:
        words = f"Registered late, on {last.words}: {len(early)} of the study's evaluations had already finished."
        return Standing("late", False, ALPHA, f"{words} {_EXPLORATORY}", registration=last)
    amended = f" as amendment {len(found) - 1}" if len(found) > 1 else ""
    words = f"Registered on {last.words}{amended}, before any of its {len(planned)} evaluations had finished."
    looks = last.content["primary"]["looks"]
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

    The order of the seeds is that of the registration, and then the whole numbers after its largest: nobody can choose them.
    """
    seeds, registered = _seeds(plan), last.content["seeds"]
    order = [*registered, *range(max(registered) + 1, max(registered) + 1 + looks[-1])]
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
    primary = plan.primary
    stated = {
        "metric": primary["metric"],
        "baseline": primary.get("baseline", {}),
        "margin": parse_margin(primary.get("margin", 0.0), "margin").plain(),
        "variants": primary.get("variants", []),
        "test": primary.get("test", "permutation"),
        "looks": primary.get("looks", []),
        "holm_equivalence": primary.get("holm_equivalence", False),
    }
    games, variants = ({getattr(point, name): None for point in plan.points} for name in ("game", "variant"))
    about = {"study": plan.study, "scale": plan.scale, "primary": stated}
    lists = {"variants": list(variants), "games": list(games), "seeds": _seeds(plan)}
    return dict(json.loads(json.dumps({**about, **lists})))


def _seeds(plan: SavedPlan) -> list[int]:
    return list(dict.fromkeys(point.seed for point in plan.points))


def _evaluations(plan: SavedPlan) -> dict[tuple[str, str, int], JobRef]:
    return {(point.variant, point.game, point.seed): point.jobs["evaluation"] for point in plan.points}


def _changes(last: Registration, plan: SavedPlan) -> tuple[str, ...]:
    """What a plan states differently. More or fewer of the registered seeds are no such change."""
    return tuple(_described(last, _statement(plan), _evaluations(plan)))


def _described(last: Registration, now: Mapping[str, Any], evaluations: Mapping[tuple[str, str, int], JobRef]) -> Iterator[str]:
    for name in ("study", "scale"):
        if now[name] != last.content[name]:
            yield f"{name} {last.content[name]} -> {now[name]}"
    for name, value in now["primary"].items():
        before = last.content["primary"][name]
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
    content = {**_statement(plan), "finished": [str(ref) for ref in finished], "time": _now(), "registration": last.sha256}
    write_exclusive(_change_file(plan), _sealed(content))


def _noted(plan: SavedPlan) -> int | None:
    """How many evaluations had finished when a sweep first used this plan's statement; None where no sweep noted that."""
    try:
        return len(_read(_change_file(plan)).content["finished"])
    except (FileNotFoundError, DamagedFile):
        return None


def _change_file(plan: SavedPlan) -> Path:
    evaluations = [[*cell, *ref] for cell, ref in _evaluations(plan).items()]
    return plan.folder / f"change-{digest([_statement(plan), evaluations])[:12]}.json"


def _sealed(content: Mapping[str, Any]) -> bytes:
    return json.dumps({"content": content, "sha256": digest(content)}, indent=1).encode() + b"\n"


def _read(file: Path) -> Registration:
    found = read_json(file)
    content = found.get("content")
    if not isinstance(content, dict) or digest(content) != found.get("sha256") or not content.keys() >= _KEYS:
        raise DamagedFile(file, "it was edited or truncated (its SHA-256 does not fit its content); restore it from a copy")
    fit(content, REGISTRATION, file)
    return Registration(file, content, str(found["sha256"]))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def export_file(registration: Registration, target: Path) -> None:
    """Copies a registration to a file of the user's. Raises UserError where another file is there, or nothing can be written."""
    data = read_bytes(registration.file)
    try:
        if not write_exclusive(target, data) and target.read_bytes() != data:
            raise UserError(f"{target}: there is another file of this name, which is not overwritten; choose another name")
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None
