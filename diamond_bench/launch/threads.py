"""Which jobs may run at once, by their threads. Without torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from diamond_bench.store.jobspec import JobRef


@dataclass(frozen=True)
class ThreadLimit:
    """A limit on the threads of the jobs that run at once."""

    cores: int | None = None
    """Number of threads that may run at once. None is no limit."""
    threads: Mapping[JobRef, int] = field(default_factory=dict)
    """Number of threads of each job. Other jobs have none."""

    def fits(self, ref: JobRef, running: Iterable[JobRef]) -> bool:
        """Whether a job may begin next to the running ones. A job may if it has no threads, or if no running one has."""
        own, busy = self.threads.get(ref, 0), sum(self.threads.get(other, 0) for other in running)
        return self.cores is None or not own or not busy or own + busy <= self.cores


NO_LIMIT = ThreadLimit()
"""All jobs may run at once."""
