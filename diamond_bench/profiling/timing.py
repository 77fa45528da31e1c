"""Repeated timings of one piece of work done in several ways, taken in turn; and what they come to. No torch."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST_ROUNDS = 6
"""Even, as is every number of rounds: each way is as often the first of a round as the last."""
MOST_ROUNDS = 20
MOST_CALLS = 4
LEAST_WARM_CALLS = 2
MOST_WARM_CALLS = 3
ENOUGH_SECONDS = 1.0
"""Of timings of one piece of work, all ways together, after which no further round is taken; the least number of rounds always is."""
_WARM_SECONDS = 0.5
_SETTLED = 0.7
"""A warm-up call that took more than this share of the one before has no compilation or recording before it that it lacks itself."""
_LEAST_SECONDS = 0.01
"""A timing that would be shorter is of several calls."""


def _nothing(calls: int) -> None: ...


@dataclass(frozen=True)
class Work:
    """One way of doing a piece of work."""

    call: Callable[[], object]
    before: Callable[[int], object] = _nothing
    """Told before each timing how many calls follow; its own time is not counted."""
    most_calls: int = MOST_CALLS


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float
    count: int
    """Of how many values."""


@dataclass(frozen=True)
class Timings:
    """Seconds of a call in each round, for each way; and the ways in the order in which they were timed."""

    seconds: tuple[tuple[float, ...], ...]
    order: tuple[int, ...]


def warm_up(
    way: Work,
    wait: Callable[[], object],
    tick: Callable[[float], object] = lambda share: None,
    clock: Callable[[], float] = time.perf_counter,
    least: int = LEAST_WARM_CALLS,
) -> float:
    """Calls the work `least` times, and once more where it is quick or has not settled. Returns the seconds of the last call.

    The first call may compile, so that a sum of seconds, or one long call, says nothing of what the next will take. `tick` is as in
    `alternate`.
    """
    most, took = max(least, MOST_WARM_CALLS), 0.0
    for number in range(1, most + 1):
        before, took = took, _timed(way, 1, wait, clock)
        tick(number / most)
        if number >= least and took >= _WARM_SECONDS and took > _SETTLED * before:
            break
    return took


def alternate(
    ways: Sequence[Work],
    warm: Sequence[float],
    wait: Callable[[], object],
    tick: Callable[[float], object] = lambda share: None,
    clock: Callable[[], float] = time.perf_counter,
    enough: float = ENOUGH_SECONDS,
) -> Timings:
    """Times each way once a round, in turn and every other round backwards (A B, B A, A B, ...), so that what slows all work down as
    time goes on falls on all ways alike.

    `warm`: seconds of a call of each, by `warm_up`; how many calls a timing has follows from them. `wait` returns when the device has
    done all it was given; it is called at the borders of a timing and nowhere else. `tick` is told after each timing which share of
    the work is done, and may raise to end it. At least LEAST_ROUNDS rounds are taken, and up to MOST_ROUNDS until `enough` seconds
    were timed.
    """
    calls = _calls(ways, warm)
    seconds: list[list[float]] = [[] for _ in ways]
    order: list[int] = []
    spent, forth = 0.0, list(range(len(ways)))
    while len(order) < LEAST_ROUNDS * len(ways) or (spent < enough and len(order) < MOST_ROUNDS * len(ways)):
        for i in (*forth, *reversed(forth)):
            took = _timed(ways[i], calls, wait, clock)
            spent += took
            seconds[i].append(took / calls)
            order.append(i)
            rounds = len(order) / len(ways)
            tick(min(1.0, rounds / LEAST_ROUNDS, max(spent / enough, rounds / MOST_ROUNDS)))
    return Timings(tuple(map(tuple, seconds)), tuple(order))


def _calls(ways: Sequence[Work], warm: Sequence[float]) -> int:
    wanted = math.ceil(_LEAST_SECONDS / max(min(warm), 1e-9))
    return max(1, min(wanted, *(way.most_calls for way in ways)))


def _timed(way: Work, calls: int, wait: Callable[[], object], clock: Callable[[], float]) -> float:
    way.before(calls)
    wait()
    started = clock()
    for _ in range(calls):
        way.call()
    wait()
    return clock() - started


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (interpolated between the values) of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def ratios(timings: Timings) -> Spread:
    """How many times as long the second way took as the first, round by round."""
    first, second = timings.seconds
    return spread([b / a for a, b in zip(first, second, strict=True)])
