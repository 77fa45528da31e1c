"""What is told of a sweep while it runs: by a worker to its parent (one JSON line each), by the parent to a display."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from diamond_bench.store.jobspec import JobRef

Name = Literal["ready", "refused", "planned", "started", "progress", "said", "done", "failed", "crashed", "interrupted", "taken", "blocked"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Of a worker: ready (`text`: its device), refused (`text`: why it cannot work). Of a job: started, progress, said, done, failed
    (`text`: the error), crashed (failed, and the worker's process may be unsound), interrupted (stopped and saved), taken (another
    process has it, or has done it), blocked (`text`: the job it needs and will not get). Of the sweep: planned (`done` of `total` jobs
    are done already), said.
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
    """For callers who do not want to be told."""
