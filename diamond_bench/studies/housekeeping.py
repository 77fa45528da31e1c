"""The disk usage of a store, removal of unneeded files, and merging of another store's finished jobs."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import COMPILED, PLAYED, Store, check_files
from diamond_bench.store.batches import batch_folder, read_batches
from diamond_bench.store.claims import KEPT_FRAMES
from diamond_bench.store.files import (
    STALE_AFTER_SECONDS,
    TEMPORARY,
    DamagedFile,
    has_seal,
    may,
    not_a_folder,
    owner,
    read_bytes,
    read_json,
    refusal,
    require_folders,
    temporary_name,
    unwritable,
    write_atomic,
    write_exclusive,
    write_json,
)
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.shapes import JOBS, fit
from diamond_bench.store.states import check_result
from diamond_bench.studies.plan import load_plan, study_folders
from diamond_bench.studies.registration_files import CHANGES, registrations

_QUIET_SECONDS = 600.0
"""Seconds after which a finished task no longer writes into its batch's folder."""


@dataclass(frozen=True)
class Usage:
    """Sizes of one job's folder in bytes."""

    ref: JobRef
    artifact: int
    """Everything except the following two."""
    checkpoint: int
    """Data that only resuming the job would need."""
    frames: int
    """Imagined frames (KEPT_FRAMES)."""

    @property
    def total(self) -> int:
        return self.artifact + self.checkpoint + self.frames


@dataclass(frozen=True)
class Removal:
    """Something that `gc` removed, or would remove."""

    path: Path
    bytes: int
    reason: str


@dataclass(frozen=True)
class Merged:
    """The results of `merge` for the other store's jobs and plans."""

    copied: tuple[JobRef, ...]
    present: tuple[JobRef, ...]
    """Done in both stores."""
    refused: tuple[str, ...]
    """Left out, each with the reason: damaged there (a job, or a plan), begun and not done here, or a different registration here."""
    plans: tuple[Path, ...]
    """plan.json files copied."""


def du(store: Store) -> list[Usage]:
    """The size of each job in the store, largest first. Reports unreadable files to `store.say`.

    Raises UserError if there is no store.
    """
    require_store(store)
    usages = []
    for ref in store.refs():
        folder = store.folder(ref)
        refused: dict[str, None] = {}
        whole = _size(folder, refused)
        removable = {} if refused or not_a_folder(folder) else {name: _size(folder / name) for name in ("checkpoint", *KEPT_FRAMES)}
        checkpoint, frames = removable.get("checkpoint", 0), sum(removable.get(name, 0) for name in KEPT_FRAMES)
        usages.append(Usage(ref, whole - checkpoint - frames, checkpoint, frames))
        for reason in refused:
            store.say(f"not counted: {reason}")
    return sorted(usages, key=lambda usage: (-usage.total, usage.ref))


def gc(store: Store, keep: Set[JobRef], *, frames: bool = True, unplanned: bool = False, dry_run: bool = False) -> list[Removal]:
    """Removes unneeded files and returns them. With `dry_run` it only returns them.

    These are: checkpoints of done jobs, SLURM's files of such jobs, kept play of agents, compiled code if nothing runs and, with `frames`,
    the imagined frames kept by done evaluations. With `unplanned`, also whole jobs that are not in `keep` (see `planned`), files set aside
    as damaged, and leftovers of killed processes. A running job is never touched: each job is locked first. Files of another user that can
    be neither read nor written stay, with a message to `store.say`. A symbolic link is removed, and its target stays. Raises UserError if
    there is no store.
    """
    require_store(store)
    removals = []
    for ref, state in sorted(store.states().items()):
        folder = store.folder(ref)
        if state.status == "running":
            continue
        if state.status == "unreadable":
            store.say(f"left: {state.error}")
            continue
        if unplanned and ref not in keep:
            found = [Removal(folder, _size(folder), "in no study's plan")]
        elif state.status == "done":
            reasons = {"checkpoint": "its job is done", **dict.fromkeys(KEPT_FRAMES if frames else (), "frames of a done evaluation")}
            found = [Removal(folder / name, _size(folder / name), why) for name, why in reasons.items() if os.path.lexists(folder / name)]
        else:
            continue
        if found and not _may_change(folder):
            store.say(f"left: {folder} belongs to {owner(folder)} and cannot be written")
        elif found and (dry_run or _remove_locked(store, ref, found)):
            removals += found
    states = store.states()
    for batch in read_batches(store.root):
        folder = batch_folder(store.root, batch.name)
        done = all(ref in states and states[ref].status == "done" for task in batch.tasks for ref in task)
        if done and time.time() - max(file.lstat().st_mtime for file in folder.iterdir()) > _QUIET_SECONDS:
            removals.append(Removal(folder, _size(folder), "the jobs that SLURM was given are done"))
            if not dry_run:
                shutil.rmtree(folder)
    running = any(state.status == "running" for state in store.states().values())
    caches = {PLAYED: "real play of agents, played again when it is needed"}
    for name, reason in (caches if running else {COMPILED: "compiled code, rebuilt when it is needed", **caches}).items():
        cache = store.root / name
        if os.path.lexists(cache):
            removals.append(Removal(cache, _size(cache), reason))
            if not dry_run:
                aside = cache.with_name(f".{name}-{os.getpid()}{TEMPORARY}")
                cache.rename(aside)  # at once: a process that starts now finds none, and not half of it
                for folder in store.root.glob(f".{name}-*"):  # including those of a killed gc
                    with contextlib.suppress(OSError):
                        _discard(folder)
    for folder in _left_over(store) if unplanned else ():
        if not _may_change(folder):
            store.say(f"left: {folder} belongs to {owner(folder)} and cannot be written")
            continue
        removals.append(
            Removal(folder, _size(folder), "left of a killed process" if folder.name.startswith(".") else "set aside as damaged")
        )
        if not dry_run:
            _discard(folder)
    return removals


def require_store(store: Store) -> None:
    """Raises UserError if the store's root contains no job of any kind and no study."""
    if not any((store.root / name).is_dir() for name in (*store.kinds, "studies")):
        raise UserError(f"{store.root} is no store: it has none of the folders {', '.join(store.kinds)}")


def remember(folder: Path, refs: Iterable[JobRef]) -> None:
    """Records the jobs of a swept plan in a study's `folder`. plan.json contains only the last plan, but `gc` spares the jobs of all
    plans."""
    jobs = sorted(refs)
    record = folder / "jobs" / f"{_digest(jobs)}.json"
    require_folders(folder.parents[2], record.parent)
    if not record.exists():
        write_json(record, {"jobs": [list(ref) for ref in jobs]})


def planned(root: Path) -> set[JobRef]:
    """The jobs of every plan that was swept into a store. Raises UserError for a damaged record, since the needed jobs are then unknown."""
    return {ref for folder in study_folders(root) for file in _records(folder) for ref in _recorded(file)}


def _records(folder: Path) -> list[Path]:
    """plan.json of a study's folder, and the files of `remember`."""
    require_folders(folder.parents[2], folder / "jobs")
    return [*folder.glob("plan.json"), *sorted((folder / "jobs").glob("*.json"))]


def _recorded(file: Path) -> list[JobRef]:
    content = read_json(file)
    advice = "; sweep the study again, or remove the file"
    fit(content, JOBS, file, advice)
    jobs = [JobRef(*ref) for ref in content["jobs"]]
    if file.name == "plan.json":
        has_seal(content, file)
    elif file.stem != _digest(jobs):
        raise DamagedFile(file, f"it was edited by hand (its name is not the checksum of its jobs){advice}")
    return jobs


def _digest(jobs: Iterable[JobRef]) -> str:
    return hashlib.sha256(" ".join(map(str, jobs)).encode()).hexdigest()[:16]


def _remove_locked(store: Store, ref: JobRef, found: list[Removal]) -> bool:
    """Removes parts of a job, or all of it, unless a process has it."""
    if not_a_folder(store.folder(ref)):  # a link or a file, in which no process can have a job
        store.folder(ref).unlink()
        return True
    lock = store.lock(ref)
    if lock is None:
        return False
    whole = False
    try:
        for removal in found:
            whole = removal.path == store.folder(ref)
            doomed = temporary_name(removal.path)
            removal.path.rename(doomed)  # gone for everybody at once, however long the removal takes
            _discard(doomed)
    except OSError as error:
        raise unwritable(store.root, error) from None
    finally:
        lock.abandon() if whole else lock.release()
    return True


def _left_over(store: Store) -> Iterator[Path]:
    for kind in store.kinds:
        yield from sorted((store.root / kind).glob("*.damaged-*"))
        for folder in sorted((store.root / kind).glob(f".*{TEMPORARY}")):
            if time.time() - folder.lstat().st_mtime > STALE_AFTER_SECONDS:
                yield folder


def _may_change(path: Path) -> bool:
    """Whether the content of a folder may be changed. A link or a file counts as content of its parent folder."""
    return path.is_symlink() or not path.is_dir() or may(path, os.W_OK | os.X_OK)


def _discard(path: Path) -> None:
    """Removes a folder with all its content, a file, or a link. The target of a link stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size(path: Path, refused: dict[str, None] | None = None) -> int:
    """Bytes of a file, or of everything below a folder. 0 if it does not exist. `refused` receives the reason for anything unreadable."""
    total = 0
    try:
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        for entry in os.scandir(path):
            inside = entry.is_dir(follow_symlinks=False)
            total += _size(Path(entry.path), refused) if inside else entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        pass
    except PermissionError as error:
        if refused is not None:
            refused[refusal(error)] = None
    return total


def merge(store: Store, other_root: Path) -> Merged:
    """Copies the jobs that are done in the store at `other_root` and missing (or not begun) here, and its studies' plans.

    Each job is checked first: the identity recomputed from its config, and the size and SHA-256 of every file. Nothing here is overwritten.
    Raises UserError if `other_root` is no store or this one is not writable.
    """
    other = Store(other_root, say=store.say, kinds=store.kinds, timing=store.timing)
    require_store(other)
    store.require_writable()
    copied: list[JobRef] = []
    present: list[JobRef] = []
    refused: list[str] = []
    here = store.states()
    for ref, state in sorted(other.states(refused.append).items()):
        if state.status in ("damaged", "unreadable"):
            refused.append(f"{ref}: {state.error}")
        if state.status != "done":
            continue
        status = here[ref].status if ref in here else "missing"
        if status == "done":
            present.append(ref)
        elif status not in ("missing", "pending"):
            refused.append(f"{ref}: here it is {status}; nothing is overwritten")
        else:
            try:
                _copy_job(store, other, ref)
                copied.append(ref)
            except UserError as error:
                refused.append(f"{ref}: {error}")
            except PermissionError as error:
                refused.append(f"{ref}: {refusal(error)}")
    plans = _copy_plans(store, other, refused)
    return Merged(tuple(copied), tuple(present), tuple(refused), plans)


def _copy_job(store: Store, other: Store, ref: JobRef) -> None:
    """Raises UserError for a job that does not match its description, or that was begun here meanwhile."""
    other.spec(ref)
    source, target = other.folder(ref), store.folder(ref)
    files = other.result(ref).files
    check_files(source, files, contents=False)
    partial = temporary_name(target)
    try:
        for name in (*files, "config.yaml", "result.json", "state.json", "log.txt", *KEPT_FRAMES):
            if (source / name).is_file() and not (source / name).is_symlink():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, partial / name)
        check_files(partial, files, contents=True)
        check_result(partial, ref.id)
        _publish(store, ref, partial)
    except OSError as error:
        raise unwritable(store.root, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(store: Store, ref: JobRef, partial: Path) -> None:
    """Moves a complete copy to its place, over a folder that was prepared and not begun."""
    target = store.folder(ref)
    if target.exists():
        lock = store.lock(ref)
        if lock is None or store.state(ref).status != "pending":
            if lock is not None:
                lock.release()
            raise UserError("it was begun here meanwhile; nothing is overwritten")
        prepared = temporary_name(target)
        target.rename(prepared)
        lock.abandon()
        shutil.rmtree(prepared)
    partial.rename(target)  # fails if another process has created it meanwhile


def _copy_plans(store: Store, other: Store, refused: list[str]) -> tuple[Path, ...]:
    """Copies the plans missing here, and records the jobs of all of them."""
    copied = []
    for source in study_folders(other.root, refused.append):
        target = store.root / source.relative_to(other.root)
        require_folders(store.root, target)
        try:
            records = _records(source)
        except UserError as error:
            refused.append(str(error))
            continue
        except PermissionError as error:
            refused.append(refusal(error))
            continue
        for file in records:
            try:
                if file.name == "plan.json":
                    load_plan(source)
                remember(target, _recorded(file))
            except DamagedFile as error:
                refused.append(str(error))
                continue
            except PermissionError as error:
                refused.append(refusal(error))
                continue
            if file.name == "plan.json" and not os.path.lexists(target / "plan.json"):
                write_atomic(target / "plan.json", read_bytes(file))
                copied.append(target / "plan.json")
        _copy_registrations(source, target, refused)
    return tuple(copied)


def _copy_registrations(source: Path, target: Path, refused: list[str]) -> None:
    """Copies a study's registrations that are missing here, and the changes noted on them, unless there are others here.

    The recorded times show which evaluations finished before a registration, in whichever store (see registration.registration_status).
    """
    try:
        there, here = registrations(source), registrations(target)
    except DamagedFile as error:
        refused.append(f"{source}: its registrations are left: {error}")
        return
    except PermissionError as error:
        refused.append(refusal(error))
        return
    if any(ours.sha256 != theirs.sha256 for ours, theirs in zip(here, there, strict=False)):  # one of the two may have more amendments
        refused.append(f"{source}: its registration is left, since {target} holds another; nothing is overwritten")
        return
    for file in (*(found.file for found in there), *source.glob(CHANGES)):
        write_exclusive(target / file.name, read_bytes(file))
