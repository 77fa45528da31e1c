"""How work is timed: in turn, at the device's borders, and what the timings come to."""

from itertools import pairwise

import numpy as np
import pytest

from diamond_bench.jobs.context import Interrupted
from diamond_bench.profiling.timing import MAX_CALLS, MAX_ROUNDS, MIN_ROUNDS, Timings, Work, alternate, ratios, spread, warm_up


class Clock:
    """A clock that only the timed work moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float, most_calls: int = MAX_CALLS) -> Work:
        def call() -> None:
            self.now += seconds
            self.done.append(name)

        def before(calls: int) -> None:
            self.now += 100.0
            self.done.append(f"before {calls}")

        return Work(call, before, most_calls)

    def wait(self) -> None:
        self.done.append("wait")


def test_two_ways_are_timed_in_turn_and_only_their_work_is_counted() -> None:
    clock = Clock()
    found = alternate([clock.work("a", 2.0), clock.work("b", 3.0)], [2.0, 3.0], clock.wait, clock=clock)
    assert found.order == (0, 1, 1, 0) * (MIN_ROUNDS // 2)
    assert MIN_ROUNDS % 2 == MAX_ROUNDS % 2 == 0
    assert found.seconds == ((2.0,) * MIN_ROUNDS, (3.0,) * MIN_ROUNDS)
    one, other = (["before 1", "wait", name, "wait"] for name in "ab")
    assert clock.done == (one + other + other + one) * (MIN_ROUNDS // 2)  # the device waited for at borders alone


def test_what_slows_down_as_time_goes_on_is_no_difference_between_ways() -> None:
    clock, slower = Clock(), [1.0]

    def call() -> None:
        clock.now += slower[0]
        slower[0] *= 1.02

    found = ratios(alternate([Work(call), Work(call)], [1.0, 1.0], clock.wait, clock=clock))
    assert found.median == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("seconds", "most_calls", "calls"), [(0.006, 4, 2), (0.0001, 4, 4), (0.0001, 1, 1)])
def test_short_work_is_timed_more_often_and_several_calls_at_once(seconds: float, most_calls: int, calls: int) -> None:
    clock = Clock()
    work = clock.work("a", seconds, most_calls)
    warm = warm_up(work, clock.wait, clock=clock)
    assert warm == pytest.approx(seconds)
    clock.done.clear()
    found = alternate([work], [warm], clock.wait, clock=clock)
    assert len(found.order) == MAX_ROUNDS
    assert found.seconds[0] == pytest.approx([seconds] * MAX_ROUNDS)
    assert clock.done.count("a") == calls * MAX_ROUNDS


@pytest.mark.parametrize(
    ("times", "least", "calls"),
    [
        ([60.0, 0.001, 0.002, 9.0], 2, 3),  # the first compiles
        ([60.0, 2.0, 2.1, 9.0], 2, 3),
        ([2.0, 2.0, 9.0], 2, 2),  # long, and as long again: it is warm
        ([0.3, 0.3, 0.3, 9.0], 2, 3),  # the sum says nothing
        ([100.0, 9.0], 1, 1),
        ([0.1] * 6 + [9.0], 6, 6),
    ],
)
def test_warm_up_ends_when_a_call_is_as_long_as_the_one_before(times: list[float], least: int, calls: int) -> None:
    clock, left = Clock(), iter(times)

    def call() -> None:
        clock.now += next(left)

    reported: list[float] = []
    assert warm_up(Work(call), clock.wait, reported.append, clock, least) == pytest.approx(times[calls - 1])
    assert len(reported) == calls


def test_progress_rises_to_the_end_and_may_stop_it() -> None:
    clock, reported = Clock(), [0.0]
    alternate([clock.work("a", 0.15)], [0.15], clock.wait, reported.append, clock)
    assert all(a <= b for a, b in pairwise(reported))
    assert reported[-1] == 1.0

    def stop(share: float) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        alternate([clock.work("a", 0.1)], [0.1], clock.wait, stop, clock)
    with pytest.raises(Interrupted):
        warm_up(clock.work("a", 0.1), clock.wait, stop, clock)


def test_ratios_are_of_pairs_and_quartiles_those_of_numpy() -> None:
    first, second = (1.0, 2.0, 4.0, 8.0, 5.0), (3.0, 2.0, 2.0, 8.0, 20.0)
    of_pairs = [3.0, 1.0, 0.5, 1.0, 4.0]
    found = ratios(Timings((first, second), (0, 1) * 5))
    assert [found.low, found.median, found.high] == np.percentile(of_pairs, [25, 50, 75]).tolist()
    assert found.median != np.median(second) / np.median(first)
    assert spread([7.0]).high == 7.0
