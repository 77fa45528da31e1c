"""Checkpoints written beside the training: the state as it was, in order, and no failure lost."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from diamond_bench.training import checkpoint
from diamond_bench.training.checkpoint import CheckpointWriter, load_checkpoint


class Slow:
    """`save_checkpoint` that waits to be let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let, self.begun, real = threading.Event(), threading.Event(), checkpoint.save_checkpoint

        def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
            self.begun.set()
            assert self.let.wait(20)
            return real(folder, step, state)

        monkeypatch.setattr(checkpoint, "save_checkpoint", save)


def test_what_is_written_is_the_state_at_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, writer = Slow(monkeypatch), CheckpointWriter(tmp_path)
    weights, losses = torch.zeros(3), [1.0]
    writer.save(1, {"weights": weights, "nested": {"losses": losses}})
    assert slow.begun.wait(20)
    weights += 1
    losses.append(2.0)
    assert not list(tmp_path.iterdir()), "the training goes on while it is written"
    slow.let.set()
    writer.wait()
    found = load_checkpoint(tmp_path, print)
    assert found is not None
    step, state = found
    assert (step, state["weights"].tolist(), state["nested"]["losses"]) == (1, [0, 0, 0], [1.0])


def test_they_come_in_order_and_the_last_is_there_when_it_is_closed(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path) as writer:
        for step in range(1, 8):
            writer.save(step, {"step": step})
    assert [int(path.name[5:14]) for path in sorted(tmp_path.glob("step-*.pt"))] == [6, 7]


def written(folder: Path, steps: int, ended: type[Exception] | None = None) -> None:
    """So many checkpoints of a training that ends so."""
    with CheckpointWriter(folder) as writer:
        for step in range(steps):
            writer.save(step, {})
        if ended is not None:
            raise ended


@pytest.mark.parametrize("steps", [1, 2])
def test_a_failure_is_raised_by_the_next_save_or_at_the_end(tmp_path: Path, steps: int) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        written(tmp_path / "file", steps)


def test_a_failure_does_not_hide_the_error_that_ended_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ZeroDivisionError):
        written(tmp_path / "file", 1, ZeroDivisionError)


def test_a_folder_that_is_another_s_by_now_gets_none(tmp_path: Path) -> None:
    class LostError(Exception): ...

    def lost() -> None:
        raise LostError

    writer = CheckpointWriter(tmp_path, lost)
    writer.save(1, {})
    with pytest.raises(LostError):
        writer.wait()
    assert not list(tmp_path.iterdir())
