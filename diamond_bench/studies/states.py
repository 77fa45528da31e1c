"""What the store knows of a job, read fast and never wrongly: state.json is a hint, result.json and the claim are the truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diamond_bench.studies.files import DamagedFile, read_json, size_of
from diamond_bench.studies.locks import Timing, newest_owner

Status = Literal["missing", "pending", "running", "done", "failed", "preempted", "lost", "damaged", "requeued", "cancelled"]


@dataclass(frozen=True)
class JobState:
    """A job as the store shows it.

    missing: never prepared. pending: prepared, not begun. running: its owner is alive. done: its result is whole. failed: `error`
    says why. preempted: stopped and saved. lost: its owner died without a word; it resumes from its last checkpoint. damaged:
    `error` names the file; the next sweep sets it aside and makes it anew.
    Of jobs given to SLURM (launch/slurm/standing.py) there are two more, requeued: begun, and waiting in its queue to go on; cancelled:
    taken out of the queue.
    """

    status: Status
    done: int = 0
    total: int = 0
    """Progress in the job's own steps; 0 of 0 before the first report."""
    text: str = ""
    error: str = ""
    """Last line of the error of a failed job, or what is damaged."""
    attempt: int = 0
    """How many times the job was begun."""
    host: str = ""
    pid: int = 0
    started: float | None = None
    """When the newest attempt began (seconds since the epoch)."""
    heartbeat: float | None = None
    """Last sign of life of a running or lost job's owner."""
    seconds: float = 0.0
    """Time spent in all attempts."""
    remaining: float | None = None
    """Expected seconds to the end of a running job, from its speed in this attempt."""
    begun_at: int = 0
    """The step at which the newest attempt resumed."""
    log: str = ""
    """Path of what the job printed, tracebacks included; empty before it was begun."""


def remaining_seconds(since: tuple[int, float], done: int, total: int, now: float) -> float | None:
    """Expected time left, from the progress made `since` (steps, time); None before there is any."""
    steps, began = since
    if done <= steps or not total:
        return None
    return (total - done) * (now - began) / (done - steps)


def read_state(folder: str, job: str, host: str, timing: Timing) -> JobState:
    """The state of the job `job` in its `folder`, as seen from `host`. Never raises for damage: that is a state."""
    try:
        content: dict[str, Any] = read_json(f"{folder}/state.json")
        damage = "" if isinstance(content.get("status"), str) else f"{folder}/state.json is damaged: it holds no status"
    except (FileNotFoundError, NotADirectoryError):
        content, damage = {}, ""
    except DamagedFile as error:
        content, damage = {}, str(error)
    size = size_of(f"{folder}/result.json")
    if size is not None:
        if content.get("status") != "done" or content.get("result_bytes") != size:  # written by an owner that died in between, or damaged
            try:
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


def check_result(folder: str | Path, job: str) -> dict[str, Any]:
    """The content of a job's result.json. Raises DamagedFile, FileNotFoundError."""
    path = f"{folder}/result.json"
    content = read_json(path)
    if content.get("id") != job:
        raise DamagedFile(path, f"it is of job {content.get('id')!r}")
    shapes: dict[str, type] = {"rows": list, "info": dict, "recorded": dict, "files": dict}
    for key, kind in shapes.items():
        if not isinstance(content.get(key), kind):
            raise DamagedFile(path, f"{key!r} is missing or no {kind.__name__}")
    return content


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
