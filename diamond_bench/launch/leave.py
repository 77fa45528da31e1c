"""Leaving a job in the middle of a step: a step of a large network takes minutes on a CPU, and Ctrl-C should not."""

import contextlib
from collections.abc import Callable

from diamond_bench.store.claims import Claim
from diamond_bench.store.locks import ClaimLost


class Leave:
    """Whether the running job could be killed now and lose no more than its present step. Asked from another thread than the job's."""

    def __init__(self) -> None:
        self._claim: Claim | None = None
        self._loses_nothing: Callable[[], bool] | None = None

    def begin(self, claim: Claim) -> None:
        """A job begins. Until its first progress it has nothing to lose."""
        self._claim, self._loses_nothing = claim, None

    def progressed(self) -> None:
        """The job has reported progress. From now on it can be left only if `register` was called."""
        self._loses_nothing = self._loses_nothing or _never

    def register(self, loses_nothing: Callable[[], bool]) -> None:
        """See `JobContext.losing_nothing`."""
        self._loses_nothing = loses_nothing

    def now(self) -> bool:
        """Gives the job up if that loses nothing: it counts as stopped and saved. The process must end at once if this is true."""
        if self._claim is None or (self._loses_nothing is not None and not self._loses_nothing()):
            return False
        with contextlib.suppress(ClaimLost, OSError):
            self._claim.release()
        return True


def _never() -> bool:
    return False
