"""The position of an agent's training."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

PHASES = ("collect", "denoiser", "reward_end", "actor_critic", "test")
"""The phases of an epoch, in order."""

Unit = TypeVar("Unit")


@dataclass
class Position:
    """The next epoch, phase and unit, and the numbers of the previous ones. A checkpoint contains all of it."""

    epoch: int = 0
    phase: int = 0
    unit: int = 0
    """Finished units of the phase."""
    units: int = 0
    """Finished units since the beginning."""
    initial_steps: int | None = None
    """Real steps of the initial collection, once it is over."""
    signs: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Number of rewards of each sign in collection."""
    tests: list[dict[str, float]] = field(default_factory=list)
    """The results of each round of test games."""
    last: dict[str, float] = field(default_factory=dict)
    """Means of the last finished epoch."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    def run(self, phase: str, units: Iterable[Unit], work: Callable[[Unit], object], wait: Callable[[], None]) -> Iterator[bool]:
        """Does `work` for each unfinished unit of a phase. Yields false before each of them (`loop.Training.units`).

        `wait` is called at the phase's end, so that the seconds of a phase include the pending work of a device.
        """
        number = PHASES.index(phase)
        if number < self.phase:  # done before an interruption
            return
        for unit in islice(units, self.unit, None):
            yield False
            started = time.perf_counter()
            work(unit)
            self.seconds[phase] += time.perf_counter() - started
            self.unit, self.units = self.unit + 1, self.units + 1
        started = time.perf_counter()
        wait()
        self.seconds[phase] += time.perf_counter() - started
        self.phase, self.unit = number + 1, 0

    def end_epoch(self, means: dict[str, float]) -> None:
        """Moves to the next epoch."""
        self.epoch, self.phase, self.unit, self.last = self.epoch + 1, 0, 0, means
