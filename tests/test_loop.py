"""The training loop: what is saved and when, what stops it, and that no failure is lost."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.execution import Execution
from diamond_bench.training.checkpoint import load_checkpoints, save_checkpoint
from diamond_bench.training.log import NotFinite
from diamond_bench.training.loop import Loop, Saved, StoppedWithin, Unusable


class Counter:
    """A training whose units count to 10, some of them marked as due."""

    execution = Execution()

    def __init__(self, saved: Saved | None = None) -> None:
        self.done = 0 if saved is None else saved.state["count"]
        self.closed = 0
        self.breaks: dict[int, Exception] = {}
        """Errors by the unit that raises them."""

    def units(self) -> Iterator[bool]:
        while self.done < 10:
            yield self.done == 5
            if self.done in self.breaks:
                raise self.breaks[self.done]
            self.done += 1

    def where(self) -> str:
        return f"after unit {self.done}"

    def progress(self) -> tuple[int, int, str]:
        return self.done, 10, ""

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.done}

    def close(self) -> None:
        self.closed += 1


def saved(folder: Path) -> list[int]:
    return sorted(step for step, _, _ in load_checkpoints(folder / "checkpoint", print))


def begin(loop: Loop) -> Counter:
    return loop.begin(lambda begun: Execution(), lambda execution, saved: Counter(saved))


def test_it_saves_at_multiples_where_a_checkpoint_is_due_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr("diamond_bench.training.loop.CheckpointWriter.save", lambda self, step, state: steps.append(step))
    training = Counter()
    assert Loop(JobContext(tmp_path), 4).run(training)
    assert steps == [4, 5, 8, 10]
    assert training.closed == 1


def test_the_process_may_be_killed_within_a_unit_only_if_all_before_it_is_on_disk(tmp_path: Path) -> None:
    checks: list[Callable[[], bool]] = []
    found: dict[int, bool] = {}

    class Asked(Counter):
        def units(self) -> Iterator[bool]:
            for due in super().units():
                yield due
                end = time.monotonic() + (10 if self.done in (4, 5, 8) else 0)  # a thread writes the checkpoints
                while not checks[-1]() and time.monotonic() < end:
                    time.sleep(0.01)
                found[self.done] = checks[-1]()

    assert Loop(JobContext(tmp_path, losing_nothing=checks.append), 4).run(Asked())
    assert [done for done, safe in found.items() if safe] == [0, 4, 5, 8]


def test_a_long_unit_is_followed_by_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    now = iter(range(0, 1000, 6))  # every look at the clock is 6 s after the last one
    monkeypatch.setattr("diamond_bench.training.loop.CheckpointWriter.save", lambda self, step, state: steps.append(step))
    monkeypatch.setattr("diamond_bench.training.loop.time.monotonic", lambda: next(now))
    assert Loop(JobContext(tmp_path), 100).run(Counter())
    assert steps == list(range(1, 11))


def test_a_stop_saves_and_the_next_attempt_does_only_the_rest(tmp_path: Path) -> None:
    said: list[str] = []
    loop = Loop(JobContext(tmp_path, should_stop=lambda: True, say=said.append), 100)
    for done in range(1, 10):
        training = begin(loop)
        assert not loop.run(training), "one unit an attempt: a stop is asked for at once"
        assert training.done == done
    assert loop.run(begin(loop)), "a stop that comes with the last unit is none"
    assert said == [f"resumed after unit {done}" for done in range(1, 10)]


def test_a_unit_that_is_left_because_of_a_stop_saves_the_state_before_it(tmp_path: Path) -> None:
    training = Counter()
    training.breaks[7] = StoppedWithin()
    assert not Loop(JobContext(tmp_path), 100).run(training)
    assert saved(tmp_path)[-1] == 7
    assert training.closed == 1


def test_a_number_that_is_not_finite_ends_it_naming_the_last_good_checkpoint(tmp_path: Path) -> None:
    training = Counter()
    training.breaks[6] = NotFinite("not finite (loss nan)")
    with pytest.raises(
        UserError, match=r"stopped after unit 6: not finite \(loss nan\). Last good checkpoint: step-000000005-.*. Advice: rest more"
    ):
        Loop(JobContext(tmp_path), 100, "rest more").run(training)
    assert training.closed == 1


def test_a_stop_whose_checkpoint_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").touch()
    with pytest.raises(OSError, match="checkpoint"):
        Loop(JobContext(tmp_path, should_stop=lambda: True), 100).run(Counter())


def test_a_checkpoint_without_what_it_needs_is_set_aside_and_the_one_before_it_used(tmp_path: Path) -> None:
    for step in (3, 6):
        save_checkpoint(tmp_path / "checkpoint", step, {"device": "cpu", "count": step})

    def build(execution: Execution, saved: Saved | None) -> Counter:
        if saved is not None and saved.done == 6:
            raise Unusable("replay.bin is missing")
        return Counter(saved)

    said: list[str] = []
    assert Loop(JobContext(tmp_path, say=said.append), 100).begin(lambda begun: Execution(), build).done == 3
    assert "replay.bin is missing; the checkpoint after unit 6 cannot be used without it" in said[0]
    assert saved(tmp_path) == [3]


def test_a_checkpoint_of_other_arithmetic_is_set_aside_and_the_training_restarts(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", 6, {"device": "cuda", "compile": "all", "count": 6})
    said: list[str] = []
    assert begin(Loop(JobContext(tmp_path, say=said.append), 100)).done == 0
    assert said == ["the checkpoint was made on cuda with compile=all; restarting on cpu"]
    assert not saved(tmp_path)
