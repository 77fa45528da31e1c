"""The artifacts on disk, each in a folder named by the identity of the job that creates it.

outputs/<kind>/<job id>/   config.yaml   format of the store and description of the job, with a checksum; written before it runs
                           claim-<n>     its owner (see locks.py)
                           state.json    its progress, for people and `status` (see states.py)
                           log.txt       its output
                           result.json   rows, facts, provenance, the list of its files, and a checksum; written last, it makes the job done
                           ...           the files of the artifact itself
outputs/compiled/          compiled code of torch.compile, for reuse. `gc` removes it
outputs/played/            real play of imported agents, from which `play` starts. `gc` removes it

The root may be a symbolic link. Nothing below it may be one: a link is never followed, and counts as damage (docs/architecture.md).
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from diamond_bench.errors import UserError, nearest
from diamond_bench.reading import load_yaml
from diamond_bench.store.claims import Claim
from diamond_bench.store.files import (
    IS_A_LINK,
    STALE_AFTER_SECONDS,
    TEMPORARY,
    DamagedFile,
    first_link,
    not_a_folder,
    read_bytes,
    refusal,
    require_folders,
    require_writable,
    sha256,
    size_of,
    unwritable,
    write_atomic,
    write_json,
)
from diamond_bench.store.jobspec import ID, JobRef, JobSpec
from diamond_bench.store.kinds import KINDS, Kind, family_revision
from diamond_bench.store.locks import Lock, Timing, acquire, newest_owner, this_host
from diamond_bench.store.provenance import provenance
from diamond_bench.store.states import (
    CHECKSUM,
    FORMAT,
    JobState,
    check_result,
    config_body,
    read_job_state,
    read_state,
    result_stamp,
)
from diamond_bench.typed import build, to_plain

COMPILED = "compiled"
"""Folder of compiled code."""
PLAYED = "played"
"""Folder of the real play of agents that have none of their own."""
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_ALTERED = "its content is not what the job wrote (SHA-256 differs)"
_ABSENT = (FileNotFoundError, NotADirectoryError)
_FIRST_FAMILIES = 1
"""Revision of every family when configs did not say it yet."""


@dataclass(frozen=True)
class StoredResult:
    """The content of a done job's result.json."""

    rows: list[dict[str, Any]]
    """Metric, value (including NaN and infinities), measured, baseline."""
    info: dict[str, Any]
    recorded: dict[str, Any]
    """Versions, commit, device, host, seconds, attempts, and the time of completion (`finished`)."""
    files: dict[str, list[Any]]
    """[bytes, SHA-256] by name."""
    verified: bool = True
    """Whether a checksum proves that this is what the job wrote. Results of store format 1 have none."""


class Store:
    """The store below `root`, which is created by the first write. `say` is called for damage that is set aside.

    `host` and `timing` decide when another owner counts as dead (see locks.py). `kinds` is the table of job kinds.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        say: Callable[[str], None] = print,
        kinds: Mapping[str, Kind] = KINDS,
        host: str | None = None,
        timing: Timing = Timing(),
    ):
        self.root = Path(root).absolute()
        self.say = say
        self.kinds = kinds
        self.timing = timing
        self._host = host or this_host()

    def folder(self, ref: JobRef) -> Path:
        """The job's folder, whether it exists or not."""
        return self.root / ref.kind / ref.id

    def require_writable(self) -> None:
        """Raises UserError if nothing can be written. Creates nothing."""
        require_writable(self.root)

    # Reading

    def state(self, ref: JobRef) -> JobState:
        """The state of one job."""
        require_folders(self.root, self.root / ref.kind)
        return read_state(str(self.folder(ref)), ref.id, self._host, self.timing)

    def states(self, refuse: Callable[[str], None] | None = None) -> dict[JobRef, JobState]:
        """The states of all jobs in the store (10,000 take about half a second).

        Raises PermissionError if a kind's folder may not be read, or calls `refuse` with the reason.
        """
        return {ref: read_state(path, ref.id, self._host, self.timing) for ref, path in self._folders(refuse)}

    def require_readable(self, refs: Iterable[JobRef], states: Mapping[JobRef, JobState]) -> None:
        """Raises UserError if one of the jobs may not be read, since it is unknown whether it is done."""
        for ref in refs:
            if ref in states and states[ref].status == "unreadable":
                raise UserError(f"{ref}: {states[ref].error}")

    def refs(self) -> list[JobRef]:
        """All jobs that have a folder in the store."""
        return [ref for ref, _ in self._folders()]

    def find(self, prefix: str, kinds: Sequence[str] = ()) -> JobRef:
        """The only job whose id (or kind/id) begins with `prefix`. Raises UserError if there is none, or several.

        The message then names similar ids of jobs of `kinds`, or of all jobs if it is empty.
        """
        kind, _, identity = prefix.rpartition("/")
        found = [ref for ref in self.refs() if ref.id.startswith(identity) and kind in ("", ref.kind)]
        if len(found) != 1:
            near = [ref.id for ref in self.refs() if not kinds or ref.kind in kinds]
            hint = "it fits " + ", ".join(map(str, found[:5])) if found else nearest(identity, near)
            raise UserError(f"{prefix!r} names {f'{len(found)} jobs' if found else 'no job'} of {self.root}; {hint}")
        return found[0]

    def spec(self, ref: JobRef) -> JobSpec:
        """The job that config.yaml describes. Raises UserError with the file's name if it is absent, damaged or another job's."""
        path = self._require_folder(ref) / "config.yaml"
        content = _read_config(path)
        try:
            inputs = {name: JobRef.parse(text) for name, text in content["inputs"].items()}
            kind, revision, plain = content["kind"], int(content["revision"]), content["config"]
            of_family = int(content.get("family_revision", _FIRST_FAMILIES))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, UserError) as error:
            raise DamagedFile(path, f"unexpected content ({error})") from None
        if not isinstance(kind, str) or kind not in self.kinds:
            raise UserError(f"{path}: unknown kind of job {kind!r}: {nearest(str(kind), self.kinds)}")
        try:
            config: Any = build(self.kinds[kind].config, plain)
            spec = JobSpec(kind, config, inputs, revision, None if family_revision(config) is None else of_family)
        except (UserError, TypeError) as error:
            raise UserError(f"{path}: {error} (was it written by another version of diamond-bench?)") from None
        if spec.ref != ref:
            raise DamagedFile(path, f"it describes job {spec.ref}, not {ref}")
        return spec

    def result(self, ref: JobRef) -> StoredResult:
        """The result of a done job. Raises UserError if it is not done, or its result.json is damaged."""
        try:
            content = check_result(self._require_folder(ref), ref.id)
        except FileNotFoundError:
            raise UserError(f"job {ref} is not done: {self.folder(ref)} holds no result.json") from None
        rows = [{"measured": False, **row, "value": float(row["value"])} for row in content["rows"]]
        return StoredResult(rows, content["info"], content["recorded"], content["files"], "sha256" in content)

    def artifact(self, ref: JobRef, name: str) -> bytes:
        """The content of one file of a done job. Raises UserError if it is not what the job wrote."""
        path, listed = self.folder(ref) / name, self.result(ref).files.get(name)
        if listed is None:
            raise DamagedFile(path, "the job's result does not list it")
        check_files(self.folder(ref), {name: listed}, contents=False)
        data = read_bytes(path, listed[0])
        if hashlib.sha256(data).hexdigest() != listed[1]:
            raise DamagedFile(path, _ALTERED)
        return data

    def damage(self, ref: JobRef, contents: bool = False) -> str:
        """The problem with a job's files, or nothing: a link among them, the config, the result, and the artifact's sizes (with `contents`,
        also its SHA-256)."""
        try:
            folder = self._require_folder(ref)
            if link := first_link(folder):
                raise DamagedFile(link, IS_A_LINK)
            with contextlib.suppress(*_ABSENT):
                config_body(folder / "config.yaml")
            with contextlib.suppress(*_ABSENT):
                check_files(folder, check_result(folder, ref.id)["files"], contents)
                return ""
            if read_job_state(folder)["status"] == "done":
                return f"{folder / 'result.json'} is missing"
        except _ABSENT:  # no state: not begun
            return ""
        except DamagedFile as error:
            alone = error.path.name == "state.json" and not error.path.is_symlink()  # `prepare` repairs it
            return "" if alone else str(error)
        return ""

    # Writing

    def prepare(self, spec: JobSpec) -> None:
        """Prepares the job's folder: writes its config. Sets damaged files aside first, with a message.

        Raises UserError if the folder cannot be written.
        """
        folder = self.folder(spec.ref)
        damage = self.damage(spec.ref)
        if damage:
            self.set_aside(spec.ref, damage)
        require_folders(self.root, folder)
        self._repair_state(folder)
        if (folder / "config.yaml").exists():
            return
        of_family = family_revision(spec.config) if spec.of_family is None else spec.of_family
        content = {
            "format": FORMAT,
            "kind": spec.kind,
            "id": spec.id,
            "revision": self.kinds[spec.kind].revision if spec.revision is None else spec.revision,
            **({} if of_family is None else {"family_revision": of_family}),
            "inputs": {name: str(ref) for name, ref in spec.inputs.items()},
            "config": to_plain(spec.config),
            "recorded": provenance(),
        }
        body = yaml.dump(content, Dumper=_DUMPER, sort_keys=False, allow_unicode=True).encode()
        try:
            write_atomic(folder / "config.yaml", CHECKSUM + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        except OSError as error:
            raise unwritable(self.root, error) from None

    def restore_config(self, spec: JobSpec) -> None:
        """Writes the lost config of a done job again: the plan contains it, and jobs that need this one read it."""
        if not os.path.lexists(self.folder(spec.ref) / "config.yaml"):
            with contextlib.suppress(UserError):  # a store that cannot be written: this job will not be run anyway
                self.prepare(spec)

    def claim(self, ref: JobRef) -> Claim | None:
        """The right to run a prepared job. None if another process has it, or if it is done (see `state`)."""
        lock = self.lock(ref)
        if lock is None:
            return None
        folder = self.folder(ref)
        if self.state(ref).status == "done":
            with contextlib.suppress(OSError):
                self._finish_state(folder)
            lock.release()
            return None
        for rubbish in folder.glob(f".*{TEMPORARY}"):
            with contextlib.suppress(FileNotFoundError):  # only old ones, since contenders for the job write such files too
                if time.time() - rubbish.stat().st_mtime > STALE_AFTER_SECONDS:
                    rubbish.unlink()
        try:
            return Claim(lock, folder, ref)
        except OSError as error:
            raise unwritable(self.root, error) from None

    def lock(self, ref: JobRef) -> Lock | None:
        """Keeps every other process off a job without running it. None if a process has it (or it has no folder, but a link)."""
        require_folders(self.root, self.root / ref.kind)
        if not_a_folder(self.folder(ref)):
            return None
        try:
            return acquire(self.folder(ref), self._host, self.timing)
        except OSError as error:
            raise unwritable(self.root, error) from None

    def set_aside(self, ref: JobRef, reason: str) -> Path | None:
        """Renames a job's folder to `<id>.damaged-<time>`, out of sight. None while a process runs the job."""
        folder = self.folder(ref)
        lock = self.lock(ref)
        if lock is None and not not_a_folder(folder):
            return None
        aside = folder.with_name(f"{ref.id}.damaged-{_stamp()}")
        folder.rename(aside)
        if lock is not None:
            lock.abandon()
        self.say(f"{reason}; set aside as {aside}, to be created again")
        return aside

    def _repair_state(self, folder: Path) -> None:
        path = folder / "state.json"
        try:
            read_job_state(folder)
        except _ABSENT:
            return
        except DamagedFile as error:
            owner = newest_owner(folder)
            if owner is None or not owner.alive(self._host, self.timing):
                aside = path.with_name(f"state.json.damaged-{_stamp()}")
                path.rename(aside)
                self.say(f"{error}; set aside as {aside}, the job resumes from its last checkpoint")

    def _finish_state(self, folder: Path) -> None:
        """Corrects state.json by result.json: the owner died between writing the two."""
        try:
            content = read_job_state(folder)
        except (FileNotFoundError, DamagedFile):
            content = {}
        repaired = {**content, "status": "done", **result_stamp(folder)}
        if repaired != content:
            write_json(folder / "state.json", repaired)

    def _require_folder(self, ref: JobRef) -> Path:
        """The job's folder. Raises DamagedFile if something else, such as a link, is in its place."""
        require_folders(self.root, self.root / ref.kind)
        folder = self.folder(ref)
        if reason := not_a_folder(folder):
            raise DamagedFile(folder, reason)
        return folder

    def _folders(self, refuse: Callable[[str], None] | None = None) -> Iterable[tuple[JobRef, str]]:
        for kind in self.kinds:
            require_folders(self.root, self.root / kind)
            try:
                entries = list(os.scandir(self.root / kind))
            except _ABSENT:
                continue
            except PermissionError as error:
                if refuse is None:
                    raise
                refuse(refusal(error))
                continue
            yield from ((JobRef(kind, entry.name), entry.path) for entry in entries if ID.fullmatch(entry.name))


def check_files(folder: Path, files: Mapping[str, list[Any]], contents: bool) -> None:
    """Raises DamagedFile for the first of an artifact's `files` that is absent or differs in size (with `contents`, also in SHA-256)."""
    parents = {parent for name in files for parent in PurePosixPath(name).parents}
    for parent in sorted(parents):
        if parent.name and (reason := not_a_folder(f"{folder}/{parent}")):
            raise DamagedFile(f"{folder}/{parent}", reason)
    for name, (size, digest) in files.items():
        path = f"{folder}/{name}"
        found = size_of(path)
        if found is None:
            raise DamagedFile(path, "it is missing")
        if Path(path).is_symlink():
            raise DamagedFile(path, IS_A_LINK)
        if found != size:
            raise DamagedFile(path, f"it has {found} bytes instead of {size}")
        if contents and sha256(Path(path)) != digest:
            raise DamagedFile(path, _ALTERED)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        body = config_body(path)
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    try:
        content = load_yaml(body, "its YAML")
    except UserError as error:
        raise DamagedFile(path, str(error)) from None
    if not isinstance(content, dict):
        raise DamagedFile(path, "not a group of keys")
    return content


def _stamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S") + f"-{time.time_ns() % 10**6:06d}"
