"""Submitted batches: one record per array, in the store, so that later commands know the task of each job.

outputs/slurm/<batch>/batch.json    the record; its array's id is written once SLURM has given it
outputs/slurm/<batch>/              submitit's folder: sbatch files, payloads, the tasks' output
outputs/slurm/<batch>/task-<i>.json state that a task keeps across requeues (launch/slurm/task.py)
"""

import contextlib
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from diamond_bench.store.files import (
    DamagedFile,
    not_a_folder,
    read_json,
    require_folders,
    unwritable,
    write_json,
)
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.shapes import BATCH, fit

FOLDER = "slurm"
_ADVICE = "; was it written by another version of diamond-bench? Remove its folder to forget the batch"


@dataclass(frozen=True)
class Batch:
    """One submitted array (or single task)."""

    name: str
    label: str
    """Its name in SLURM: study, kind, variant."""
    study: str
    kind: str
    tasks: tuple[tuple[JobRef, ...], ...]
    """The jobs of each element."""
    minutes: int
    """Its time limit."""
    signal_seconds: int
    retries: int
    retry_seconds: float
    device: str = "auto"
    scratch: str | None = None
    mps: bool = False
    """Whether the jobs of an element that share a GPU use CUDA's Multi-Process Service."""
    kinds: str = "diamond_bench.store.kinds:KINDS"
    array: str | None = None
    """SLURM's id. None until the submission is confirmed."""
    cancelled: tuple[int, ...] = ()
    """Elements that `diamond-bench cancel` ended."""

    def address(self, element: int) -> str:
        """SLURM's id of an element. The batch must have been submitted."""
        return f"{self.array}_{element}" if len(self.tasks) > 1 else str(self.array)

    @property
    def comment(self) -> str:
        """The comment that identifies the array in SLURM's queue before its id is known."""
        return f"diamond-bench {self.name}"


def new_name() -> str:
    """A name that sorts by time and that no other batch has."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds)) + f"-{rest:09d}-{secrets.token_hex(2)}"


def batch_folder(root: Path, name: str) -> Path:
    """The folder of a batch's record and submitit's files."""
    return root / FOLDER / name


def write_batch(root: Path, batch: Batch) -> None:
    """Writes the record. Raises UserError if it cannot be written."""
    require_folders(root, batch_folder(root, batch.name))
    try:
        write_json(batch_folder(root, batch.name) / "batch.json", asdict(batch))
    except OSError as error:
        raise unwritable(root, error) from None


def read_batch(root: Path, name: str) -> Batch:
    """The record of a batch. Raises UserError with the name of a damaged file, and FileNotFoundError."""
    path = batch_folder(root, name) / "batch.json"
    content = read_json(path)
    fit(content, BATCH, path, _ADVICE)
    try:
        tasks = tuple(tuple(JobRef(*ref) for ref in task) for task in content.pop("tasks"))
        return Batch(**{**content, "tasks": tasks, "cancelled": tuple(content["cancelled"])})
    except TypeError as error:
        raise DamagedFile(path, f"{error}{_ADVICE}") from None


def read_batches(root: Path) -> list[Batch]:
    """All batches ever submitted from a store, oldest first, except other users' private ones: SLURM's queue shows each user only their own
    tasks anyway."""
    require_folders(root, root / FOLDER)
    names = sorted(path.parent.name for path in (root / FOLDER).glob("*/batch.json"))
    for name in names:
        if reason := not_a_folder(batch_folder(root, name)):
            raise DamagedFile(batch_folder(root, name), f"{reason}{_ADVICE}")
    batches = []
    for name in names:
        with contextlib.suppress(PermissionError):
            batches.append(read_batch(root, name))
    return batches


def newest(batches: Iterable[Batch]) -> dict[JobRef, tuple[Batch, int]]:
    """The latest submitted batch and element of each job. Batches without an id from SLURM are left out."""
    return {
        ref: (batch, element) for batch in batches if batch.array is not None for element, task in enumerate(batch.tasks) for ref in task
    }


def note_cancelled(root: Path, batch: Batch, elements: Iterable[int]) -> None:
    """Records that `diamond-bench cancel` ended elements."""
    write_batch(root, replace(batch, cancelled=tuple(sorted({*batch.cancelled, *elements}))))
