"""Times one piece of work that is done in several ways, repeatedly and in turn, and summarises the timings. No torch."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIN_ROUNDS = 6
"""Even, as every number of rounds is: each way is as often the first of a round as the last."""
MAX_ROUNDS = 20
MAX_CALLS = 4
MIN_WARM_CALLS = 2
MAX_WARM_CALLS = 3
ENOUGH_SECONDS = 1.0
"""No further round is taken once the timings of a piece of work, all ways together, have lasted this long. The least number of rounds is
always taken."""
_WARM_SECONDS = 0.5
_SETTLED = 0.7
"""If a warm-up call takes more than this share of the previous one, the previous one did not compile or record anything."""
_MIN_SECONDS = 0.01
"""A shorter timing consists of several calls."""


def _nothing(calls: int) -> None: ...


@dataclass(frozen=True)
class Work:
    """One way of doing a piece of work."""

    call: Callable[[], object]
    before: Callable[[int], object] = _nothing
    """Called before each timing with the number of calls that follow; its own time is not counted."""
    most_calls: int = MAX_CALLS


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float
    count: int
    """Number of values."""


@dataclass(frozen=True)
class Timings:
    """Seconds of a call in each round, for each way, and the order in which the ways were timed."""

    seconds: tuple[tuple[float, ...], ...]
    order: tuple[int, ...]


def warm_up(
    way: Work,
    wait: Callable[[], object],
    tick: Callable[[float], object] = lambda share: None,
    clock: Callable[[], float] = time.perf_counter,
    least: int = MIN_WARM_CALLS,
) -> float:
    """Calls the work `least` times, and once more if it is quick or has not settled. Returns the seconds of the last call.

    The first call may compile, so neither a sum of seconds nor one long call predicts the next one. `tick` is as in `alternate`.
    """
    most, took = max(least, MAX_WARM_CALLS), 0.0
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
    """Times each way once per round, in turn and backwards in every other round (A B, B A, A B, ...), so that a gradual slowdown affects
    all ways equally.

    `warm` has the seconds of a call of each way, by `warm_up`; they determine the number of calls per timing. `wait` returns when the
    device has finished all its work. It is called only at the start and end of a timing. `tick` is called after each timing with the share
    of the work that is done, and may raise to end it. At least MIN_ROUNDS rounds are taken, and up to MAX_ROUNDS until `enough` seconds
    have been timed.
    """
    calls = _calls(ways, warm)
    seconds: list[list[float]] = [[] for _ in ways]
    order: list[int] = []
    spent, forth = 0.0, list(range(len(ways)))
    while len(order) < MIN_ROUNDS * len(ways) or (spent < enough and len(order) < MAX_ROUNDS * len(ways)):
        for i in (*forth, *reversed(forth)):
            took = _timed(ways[i], calls, wait, clock)
            spent += took
            seconds[i].append(took / calls)
            order.append(i)
            rounds = len(order) / len(ways)
            tick(min(1.0, rounds / MIN_ROUNDS, max(spent / enough, rounds / MAX_ROUNDS)))
    return Timings(tuple(map(tuple, seconds)), tuple(order))


def _calls(ways: Sequence[Work], warm: Sequence[float]) -> int:
    wanted = math.ceil(_MIN_SECONDS / max(min(warm), 1e-9))
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
    """The ratio of the second way's time to the first way's, round by round."""
    first, second = timings.seconds
    return spread([b / a for a, b in zip(first, second, strict=True)])
