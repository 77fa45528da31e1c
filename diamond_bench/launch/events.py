"""Events of a running sweep. A worker sends them to its parent as JSON lines; the parent passes them to a display."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from diamond_bench.store.jobspec import JobRef

Name = Literal["ready", "refused", "planned", "started", "progress", "said", "done", "failed", "crashed", "interrupted", "taken", "blocked"]


@dataclass(frozen=True)
class Event:
    """One event.

    Events of a worker are ready (`text`: its device) and refused (`text`: why it cannot work).

    Events of a job are started, progress, said, done, failed (`text`: the error), crashed (failed, and the worker's process may be in a bad
    state), interrupted (stopped after saving), taken (another process is running it or has finished it) and blocked (`text`: the required
    job that failed or was stopped).

    Events of the sweep are planned (`done` of `total` jobs were done before) and said.
    """

    name: Name
    ref: JobRef | None = None
    done: int = 0
    total: int = 0
    text: str = ""

    def line(self) -> bytes:
        """The event as a line of the workers' protocol."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "Event":
        """The event of a line written by `line`."""
        content = json.loads(line)
        ref = content.pop("ref")
        return cls(ref=JobRef(*ref) if ref else None, **content)


def ignore(event: Event) -> None:
    """An event handler that does nothing."""
