"""The files of a study's registration. No torch, no pandas.

outputs/studies/<study>/<scale>/
  registration.json       written once, before the first job of the first sweep
  registration-2.json     an amendment, written while no evaluation of its seeds had finished
  change-<digest>.json    when a sweep first used another statement, and which evaluations had finished by then
  change-reverted-1.json  when a sweep used the registered statement again
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.store.evaluated import now, read_time
from diamond_bench.store.files import DamagedFile, digest, read_json, write_exclusive
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.shapes import JOBS, REGISTRATION, fit
from diamond_bench.studies.looks import seed_order
from diamond_bench.studies.plan import study_folders

CHANGES = "change-*.json"
"""Files of the changes that sweeps noted after evaluations had finished, and of the reversions."""
REVERTED = "change-reverted-"
_NAME = re.compile(r"registration(?:-(\d+))?\.json")
_KEYS = {"study", "scale", "primary", "variants", "games", "seeds", "evaluations", "finished", "time"}


@dataclass(frozen=True)
class Registration:
    """One registration file with a valid SHA-256."""

    file: Path
    content: Mapping[str, Any]
    sha256: str
    """SHA-256 of the content as canonical JSON (sorted keys, no spaces, ASCII)."""

    @property
    def evaluations(self) -> dict[tuple[str, str, int], JobRef]:
        """The planned evaluations by variant, game and seed."""
        return {(variant, game, seed): JobRef.parse(ref) for variant, game, seed, ref in self.content["evaluations"]}

    @property
    def words(self) -> str:
        """The time and the hash of the registration: "2026-11-28 12:00 UTC (SHA-256 ab12...)"."""
        return f"{moment(self.content['time'])} (SHA-256 {self.sha256[:12]}...)"


def registrations(folder: Path) -> list[Registration]:
    """The registrations in a study's folder, oldest first.

    Raises DamagedFile for a file that was changed, or that does not amend the previous registration.
    """
    found = [read(file) for file in sorted((file for file in folder.glob("registration*.json") if number(file)), key=number)]
    for place, registration in enumerate(found, 1):
        before = found[place - 2].sha256 if place > 1 else None
        if number(registration.file) != place or registration.content.get("amends") != before:
            raise DamagedFile(registration.file, "it does not amend the registration before it; restore the missing or replaced file")
    return found


def swept(folder: Path) -> list[JobRef]:
    """The evaluations of all sweeps into a study's folder (housekeeping.remember records them)."""
    found = []
    for file in folder.glob("jobs/*.json"):
        content = read_json(file)
        fit(content, JOBS, file)
        found += [JobRef(*ref) for ref in content["jobs"] if ref[0].startswith("evaluate_")]
    return found


def studies_of(root: Path, evaluations: Collection[JobRef]) -> dict[str, int]:
    """For each study, the number of these evaluations that its sweeps planned, by the study's name and scale, largest first."""
    found: Counter[str] = Counter()
    for folder in study_folders(root, refuse=lambda reason: None):
        try:
            planned = set(swept(folder))
        except (DamagedFile, PermissionError):  # another study's file, which only provides a name here
            continue
        found[f"{folder.parent.name} (scale {folder.name})"] += len(planned & set(evaluations))
    return {name: count for name, count in found.most_common() if count}


def notes(folder: Path, registration: Registration, reverted: bool = False) -> list[tuple[Path, dict[str, Any]]]:
    """The changes of a registration that sweeps noted, or the reversions (`reverted`), oldest first: each file and its content.

    Damaged or unreadable files are ignored.
    """
    found = []
    for file in folder.glob(CHANGES):
        try:
            content = read_content(file)
        except (DamagedFile, FileNotFoundError, PermissionError):
            continue
        if content.get("registration") == registration.sha256 and file.name.startswith(REVERTED) == reverted:
            found.append((file, content))
    return sorted(found, key=lambda one: str(one[1]["time"]))


def write_note(file: Path, statement: Mapping[str, Any], finished: Sequence[JobRef], registration: Registration) -> bool:
    """Notes the statement that a sweep used in place of a registration, or a reversion, and the evaluations that had finished.

    Returns whether this call wrote the note. An existing file stays as it is.
    """
    content = {**statement, "finished": list(map(str, finished)), "time": now(), "registration": registration.sha256}
    return write_exclusive(file, sealed(content))


def moment(time: str) -> str:
    """A recorded time for people: "2026-11-28 12:00 UTC"."""
    return f"{time[:16].replace('T', ' ')} UTC"


def export_file(found: Sequence[Registration], target: Path) -> None:
    """Writes registrations, the first one and its amendments, to a user's file: {"registrations": [...]} with each file's content.

    Raises UserError if there is another file of this name, or it cannot be written.
    """
    each = [{"content": registration.content, "sha256": registration.sha256} for registration in found]
    data = json.dumps({"registrations": each}, indent=1).encode() + b"\n"
    try:
        if not write_exclusive(target, data) and not (target.is_file() and target.read_bytes() == data):
            raise UserError(f"{target}: there is another file of this name, which is not overwritten; choose another name")
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None


def sealed(content: Mapping[str, Any]) -> bytes:
    """A file's bytes: the content with its SHA-256 as canonical JSON."""
    return json.dumps({"content": content, "sha256": digest(content)}, indent=1).encode() + b"\n"


def read_content(file: Path) -> dict[str, Any]:
    """The content of a file from `sealed`. Raises DamagedFile, FileNotFoundError."""
    found = read_json(file)
    content = found.get("content")
    if not isinstance(content, dict) or digest(content) != found.get("sha256"):
        raise DamagedFile(file, "it was edited or truncated (its SHA-256 does not fit its content); restore it from a copy")
    fit(content, REGISTRATION, file)
    return content


def number(file: Path) -> int:
    """1 for registration.json, n for registration-n.json, 0 for another file."""
    found = _NAME.fullmatch(file.name)
    return int(found[1] or 1) if found else 0


def read(file: Path) -> Registration:
    """One registration. Raises DamagedFile for a file that was changed."""
    content = read_content(file)
    registration = Registration(file, content, digest(content))
    missing = sorted(_KEYS - content.keys())
    try:
        if missing or "metric" not in content["primary"]:
            raise DamagedFile(file, f"it holds no {', '.join(missing) or 'primary.metric'}; restore it from a copy")
        _ = (
            registration.evaluations,
            seed_order(registration.content),
            read_time(content["time"]),
            min(content["seeds"]),
            set(content["finished"]),
        )
    except DamagedFile:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise DamagedFile(file, f"unexpected content ({error}); restore it from a copy") from None
    return registration
