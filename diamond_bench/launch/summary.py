"""How the jobs of a sweep ended."""

from collections.abc import Mapping
from dataclasses import dataclass

from diamond_bench.store.jobspec import JobRef


@dataclass(frozen=True)
class Summary:
    """The outcome of a sweep. Every job is in exactly one of the collections."""

    done: tuple[JobRef, ...]
    """Jobs that this sweep ran."""
    skipped: tuple[JobRef, ...]
    """Jobs that were done before, or that another sweep has finished meanwhile."""
    failed: Mapping[JobRef, str]
    """Failed jobs with the last line of the error; the traceback is in the job's log.txt."""
    blocked: Mapping[JobRef, JobRef]
    """Jobs that were not run because a job that they need, given here, failed or was stopped."""
    interrupted: tuple[JobRef, ...]
    """Jobs that were stopped while running; the same command resumes them."""
    left: tuple[JobRef, ...]
    """Jobs that were not begun, or were left to another sweep, when the sweep was stopped."""
    stopped: bool
    """Whether the sweep was asked to stop (Ctrl-C)."""

    @property
    def exit_code(self) -> int:
        """0 if all jobs are done, even after a request to stop; otherwise 130 after Ctrl-C, else 1."""
        if self.failed or self.blocked or self.interrupted or self.left:
            return 130 if self.stopped else 1
        return 0
