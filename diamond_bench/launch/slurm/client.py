"""Runs SLURM's commands and parses their answers."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diamond_bench.errors import UserError
from diamond_bench.launch.slurm.imports import without_logging
from diamond_bench.store.batches import Batch, read_batches

_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo", "srun")
_ANSWER_SECONDS = 120.0
_MAX_NAMED = 500
"""Maximum number of ids per command, since the length of a command line is limited."""
WAITING = frozenset(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"))
ACTIVE = WAITING | {"RUNNING", "COMPLETING", "RESIZING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"}
"""States of a task that waits, runs, or will run again."""
NEVER = "DependencyNeverSatisfied"
NOT_LAUNCHED = "launch failed requeued held"
"""Reason that SLURM gives for a task that a node failed to start. SLURM requeues such a task and holds it until somebody releases it."""
_FIELDS = ("JobArrayID", "State", "Reason", "NodeList", "RestartCnt", "exit_code", "Comment")
_UNREACHABLE = ("unable to contact", "socket timed out", "connection refused", "temporarily unable", "communication", "zero bytes were")


class SlurmError(UserError):
    """SLURM refused a request or did not answer. If `transient`, the same request may succeed later."""

    def __init__(self, command: str, answer: str):
        errors = [line.partition("error: ")[2] or line for line in answer.splitlines() if line.strip()]
        self.transient = any(words in answer.lower() for words in _UNREACHABLE)
        how = "does not answer" if self.transient else "refused"
        hint = " (is SLURM_CONF set rightly?)" if "configuration source" in answer else ""
        super().__init__(f"SLURM {how} ({command}): {'; '.join(errors) or 'it gave no reason'}{hint}")


@dataclass(frozen=True)
class QueueEntry:
    """One task in the output of squeue or sacct."""

    state: str
    """SLURM's long name, such as PENDING."""
    reason: str = ""
    """Why it waits, or why it did not run."""
    nodes: str = ""
    """The nodes it runs on, or ran on."""
    restarts: int = 0
    exit_code: str = "0:0"
    """Exit code and signal, in sacct's format."""
    comment: str | None = None
    """Identifies the batch. None if the answer came from the accounting database."""

    @property
    def active(self) -> bool:
        """Whether it waits, runs, or will run again."""
        return self.state in ACTIVE and self.reason != NEVER


def absent_commands() -> list[str]:
    """SLURM's commands that are not on the PATH."""
    return [command for command in _COMMANDS if shutil.which(command) is None]


def require_slurm() -> None:
    """Raises UserError if this machine cannot submit to a cluster."""
    if absent := absent_commands():
        raise UserError(
            f"cluster=slurm: there is no {absent[0]} on the PATH; run the command on a login node of the cluster, or leave cluster= out to "
            "run on this machine"
        )


def slurm(*command: str) -> str:
    """The output of a SLURM command, unaffected by filters and formats in the user's environment. Raises SlurmError with SLURM's
    message."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_"))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, env={**plain, "LC_ALL": "C"})
    except FileNotFoundError:
        raise SlurmError(command[0], f"there is no {command[0]} on the PATH; run this on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(command[0], f"communication: no answer for {_ANSWER_SECONDS:.0f} s") from None
    if done.returncode:
        raise SlurmError(command[0], done.stderr or done.stdout)
    return done.stdout


def partitions() -> dict[str, str]:
    """The cluster's partitions and the longest time limit of each, in SLURM's format (`infinite` if there is none). The default partition
    is also listed under the name ""."""
    found = {}
    for line in slurm("sinfo", "--all", "--noheader", "--format=%P|%l").splitlines():
        name, limit = line.strip().split("|")
        found[name.rstrip("*")] = limit
        if name.endswith("*"):
            found[""] = limit
    return found


def array_limit() -> int:
    """Maximum number of elements of an array numbered from 0 (MaxArraySize)."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", slurm("scontrol", "show", "config"))
    return int(found[1]) if found else 1001


def queue() -> dict[str, QueueEntry]:
    """This user's tasks that the controller remembers, including ended ones, by id (`12_3`, or `12` outside an array)."""
    return _entries(slurm("squeue", "--noheader", "--array", "--states=all", "--user", str(os.getuid()), "--Format", _format()))


def submitted_batches(root: Path, entries: Mapping[str, QueueEntry]) -> list[Batch]:
    """All batches of a store. A batch whose id was never recorded, because the submission was killed, is found by its name in the queue."""
    ids = {entry.comment: address.partition("_")[0] for address, entry in entries.items() if entry.active}
    return [replace(batch, array=ids.get(batch.comment)) if batch.array is None else batch for batch in read_batches(root)]


def entry_of(entries: Mapping[str, QueueEntry], batch: Batch, element: int) -> QueueEntry | None:
    """SLURM's entry for an element of a batch.

    An id alone is not enough: it may belong to a task on another cluster, or to a later task, since the controller may reuse ids after a
    crash. If an array was cancelled before it began, SLURM keeps one line for the whole array.
    """
    for address in (batch.address(element), str(batch.array)):
        entry = entries.get(address)
        if entry is not None and entry.comment in (batch.comment, None):
            return entry
    return None


def _format() -> str:
    return ",".join(f"{field}:|" for field in _FIELDS)


def _entries(text: str) -> dict[str, QueueEntry]:
    entries = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) >= len(_FIELDS):
            address, state, reason, nodes, restarts, code, comment = parts[: len(_FIELDS)]
            status = int(code) if code.isdecimal() else None  # in the format of wait(2)
            ended = code if status is None else f"{status >> 8}:{status & 0x7F}"
            entries[address] = QueueEntry(state.split()[0], reason, nodes, int(restarts or 0), ended, comment)
    return entries


def accounted(arrays: Collection[str]) -> dict[str, QueueEntry]:
    """The accounting database's entries for the tasks of these arrays; empty if the cluster has no database. Raises SlurmError."""
    with without_logging():
        from submitit.slurm.slurm import read_job_id

    if not arrays or shutil.which("sacct") is None:
        return {}
    found = {}
    for some in _portions(sorted(arrays)):
        columns = "JobID,State,ExitCode,NodeList"
        try:
            text = slurm("sacct", "--noheader", "--parsable2", "--allocations", "--jobs", ",".join(some), "--format", columns)
        except SlurmError as error:
            if "accounting storage is disabled" not in str(error).lower():
                raise
            return {}
        for line in text.splitlines():
            addresses, state, code, nodes = line.split("|")[:4]
            for main, *elements in read_job_id(addresses):  # 12, 12_3, or 12_[3-5]
                numbers = range(int(elements[0]), int(elements[-1]) + 1) if elements else ()
                for address in [f"{main}_{number}" for number in numbers] or [main]:
                    found[address] = QueueEntry(state.split()[0], nodes=nodes, exit_code=code)
    return found


def cancel(addresses: Iterable[str]) -> None:
    """Cancels tasks that wait or run. Running tasks can save first (SIGTERM, then SLURM's KillWait)."""
    for some in _portions(sorted(addresses)):
        slurm("scancel", *some)


def release(addresses: Iterable[str]) -> None:
    """Releases held tasks."""
    for some in _portions(sorted(addresses)):
        slurm("scontrol", "release", ",".join(some))


def requeue(address: str) -> None:
    """Requeues a running task; SLURM ends its processes."""
    slurm("scontrol", "requeue", address)


def _portions(names: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(names), _MAX_NAMED):
        yield names[first : first + _MAX_NAMED]


@contextlib.contextmanager
def profile_alone() -> Iterator[None]:
    """Removes variables that would override the profile: SBATCH_* variables, which take precedence over lines of the file, and those of an
    allocation that this process runs in."""
    inside = "SLURM_JOB_ID" in os.environ
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("SBATCH_") or (inside and name.startswith("SLURM_") and name != "SLURM_CONF")
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
