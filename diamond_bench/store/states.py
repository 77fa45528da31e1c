"""The state of a job, read fast and never wrongly: state.json is a hint, while result.json and the claim are authoritative."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diamond_bench.store.files import DamagedFile, has_seal, not_a_folder, read_bytes, read_json, refusal, size_of
from diamond_bench.store.locks import Timing, newest_owner
from diamond_bench.store.shapes import RESULT, STATE, fit

Status = Literal["missing", "pending", "running", "done", "failed", "preempted", "lost", "damaged", "requeued", "cancelled", "unreadable"]

FORMAT = 2
"""The store's format, which config.yaml states. From format 2 on, result.json has a checksum."""
CHECKSUM = b"# sha256 "
"""Begins the first line of a config.yaml. The SHA-256 of the rest follows."""
_FORMAT = re.compile(rb"format: ([0-9]{1,4})\n")
_MAX_CONFIG = 2**20


@dataclass(frozen=True)
class JobState:
    """A job as the store shows it. `status` is one of the following:

    - missing: never prepared
    - pending: prepared, not begun
    - running: its owner is alive
    - done: its result is complete
    - failed: `error` says why
    - preempted: stopped after saving
    - lost: its owner died without saying so, and the job resumes from its last checkpoint
    - damaged: `error` names the file, and the next sweep sets the job aside and repeats it
    - unreadable: `error` says which path this user may not read

    Jobs that were submitted to SLURM (launch/slurm/queue_status.py) may also be requeued (begun, and waiting in the queue to continue) or
    cancelled (removed from the queue).
    """

    status: Status
    done: int = 0
    total: int = 0
    """Progress in the job's own steps. 0 of 0 before the first report."""
    text: str = ""
    error: str = ""
    """Last line of a failed job's error, or the damage."""
    attempt: int = 0
    """Number of attempts."""
    host: str = ""
    pid: int = 0
    started: float | None = None
    """Start of the newest attempt (seconds since the epoch)."""
    heartbeat: float | None = None
    """Last heartbeat of a running or lost job's owner."""
    seconds: float = 0.0
    """Seconds spent in all attempts."""
    remaining: float | None = None
    """Expected seconds to the end of a running job, from its speed in this attempt."""
    begun_at: int = 0
    """The step at which the newest attempt resumed."""
    log: str = ""
    """Path of the job's output, including tracebacks. Empty before the first attempt."""


def remaining_seconds(since: tuple[int, float], done: int, total: int, now: float) -> float | None:
    """Expected seconds left, from the progress made `since` (steps, time). None before there is any."""
    steps, began = since
    if done <= steps or not total:
        return None
    return (total - done) * (now - began) / (done - steps)


def read_state(folder: str, job: str, host: str, timing: Timing) -> JobState:
    """The state of the job `job` in its `folder`, seen from `host`. Damage and missing permissions are states, and never raise."""
    try:
        return _read_state(folder, job, host, timing)
    except PermissionError as error:
        return JobState("unreadable", error=refusal(error))


def _read_state(folder: str, job: str, host: str, timing: Timing) -> JobState:
    if reason := not_a_folder(folder):
        return JobState("damaged", error=f"{folder} is damaged: {reason}")
    content: dict[str, Any] = {}
    damage = ""
    try:
        content = read_job_state(folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except DamagedFile as error:
        damage = str(error)
    found = result_stamp(folder)
    if found:
        if content.get("status") != "done" or any(content.get(key) != value for key, value in found.items()):
            try:  # written by an owner that died before it wrote the state, copied, or edited
                check_result(folder, job)
            except DamagedFile as error:
                return JobState("damaged", error=str(error))
        return _shown("done", content, folder)
    if damage:
        return JobState("damaged", error=damage)
    status = content.get("status")
    if status is None:
        return JobState("pending" if size_of(f"{folder}/config.yaml") is not None else "missing")
    if status == "done":
        return JobState("damaged", error=f"{folder}/result.json is missing")
    if status == "running":
        owner = newest_owner(Path(folder))
        alive = owner is not None and owner.alive(host, timing)
        return _shown("running" if alive else "lost", content, folder, owner.heartbeat if owner else None)
    return _shown("failed" if status == "failed" else "preempted", content, folder)


def read_job_state(folder: str | Path) -> dict[str, Any]:
    """The content of a job's state.json. Raises DamagedFile, FileNotFoundError."""
    path = f"{folder}/state.json"
    content = read_json(path)
    fit(content, STATE, path)
    return content


def result_stamp(folder: str | Path) -> dict[str, int]:
    """Size and modification time of result.json, as state.json repeats them. `status` does not read a result again while both are
    unchanged. Empty if there is no result."""
    try:
        found = os.lstat(f"{folder}/result.json")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {"result_bytes": found.st_size, "result_time": max(0, found.st_mtime_ns // 1000)}


def check_result(folder: str | Path, job: str) -> dict[str, Any]:
    """The content of a job's result.json with a valid checksum. Raises DamagedFile, FileNotFoundError.

    A result without a checksum is accepted if config.yaml states that the job was prepared in an earlier format of the store.
    """
    path = f"{folder}/result.json"
    content = read_json(path)
    fit(content, RESULT, path)
    if content["id"] != job:
        raise DamagedFile(path, f"it is of job {content['id'][:100]!r}")
    if not has_seal(content, path) and store_format(folder) >= FORMAT:
        raise DamagedFile(path, "it has no checksum")
    return content


def store_format(folder: str | Path) -> int:
    """The format of the store in which a job was prepared, from the first line of its config: 1 if it states none, and the present one
    without a config. Raises DamagedFile for a config that is not as it was written."""
    try:
        body = config_body(f"{folder}/config.yaml")
    except (FileNotFoundError, NotADirectoryError):
        return FORMAT
    stated = _FORMAT.match(body)
    return int(stated[1]) if stated else 1


def config_body(path: Path | str) -> bytes:
    """The YAML of a config.yaml. Raises DamagedFile if its checksum does not fit, and FileNotFoundError."""
    head, _, body = read_bytes(path, _MAX_CONFIG).partition(b"\n")
    if head != CHECKSUM + hashlib.sha256(body).hexdigest().encode():
        raise DamagedFile(path, "it was truncated or edited by hand (its checksum does not fit)")
    return body


def _shown(status: Status, content: dict[str, Any], folder: str, heartbeat: float | None = None) -> JobState:
    remaining = None
    if status == "running" and heartbeat is not None:
        since = (content.get("since_done", 0), content.get("since_time", 0.0))
        remaining = remaining_seconds(since, content.get("done", 0), content.get("total", 0), content.get("updated", 0.0))
    return JobState(
        status,
        content.get("done", 0),
        content.get("total", 0),
        content.get("text", ""),
        content.get("error", ""),
        content.get("attempt", 0),
        content.get("host", ""),
        content.get("pid", 0),
        content.get("started"),
        heartbeat,
        content.get("seconds", 0.0),
        remaining,
        content.get("since_done", 0),
        f"{folder}/log.txt" if content else "",
    )
