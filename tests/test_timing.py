"""How work is timed: in turn, at the device's borders, and what the timings come to."""

from itertools import pairwise

import numpy as np
import pytest

from diamond_bench.jobs.context import Interrupted
from diamond_bench.jobs.timing import LEAST_ROUNDS, MOST_CALLS, MOST_ROUNDS, WARM_CALLS, Timings, Work, alternate, ratios, spread


class Clock:
    """A clock that only the timed work moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float, most_calls: int = MOST_CALLS) -> Work:
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
    found = alternate([clock.work("a", 2.0), clock.work("b", 3.0)], clock.wait, clock=clock)
    assert found.order == (0, 1) * LEAST_ROUNDS
    assert found.seconds == ((2.0,) * LEAST_ROUNDS, (3.0,) * LEAST_ROUNDS)
    one, other = (["before 1", "wait", name, "wait"] for name in "ab")
    assert clock.done == one + other + (one + other) * LEAST_ROUNDS  # a warm-up of each, and the device waited for at borders alone


@pytest.mark.parametrize(("seconds", "most_calls", "calls"), [(0.006, 4, 2), (0.0001, 4, 4), (0.0001, 1, 1)])
def test_short_work_is_timed_more_often_and_several_calls_at_once(seconds: float, most_calls: int, calls: int) -> None:
    clock = Clock()
    found = alternate([clock.work("a", seconds, most_calls)], clock.wait, clock=clock)
    assert len(found.order) == MOST_ROUNDS
    assert found.seconds[0] == pytest.approx([seconds] * MOST_ROUNDS)
    assert clock.done.count("a") == WARM_CALLS + calls * MOST_ROUNDS


def test_progress_rises_to_the_end_and_may_stop_it() -> None:
    clock, told = Clock(), [0.0]
    alternate([clock.work("a", 0.15)], clock.wait, told.append, clock)
    assert all(a <= b for a, b in pairwise(told))
    assert told[-1] == 1.0

    def stop(share: float) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        alternate([clock.work("a", 0.1)], clock.wait, stop, clock)


def test_ratios_are_of_pairs_and_quartiles_those_of_numpy() -> None:
    first, second = (1.0, 2.0, 4.0, 8.0, 5.0), (3.0, 2.0, 2.0, 8.0, 20.0)
    of_pairs = [3.0, 1.0, 0.5, 1.0, 4.0]
    found = ratios(Timings((first, second), (0, 1) * 5))
    assert [found.low, found.median, found.high] == np.percentile(of_pairs, [25, 50, 75]).tolist()
    assert found.median != np.median(second) / np.median(first)
    assert spread([7.0]).high == 7.0
