"""The loop of every training. It resumes, saves, stops on request, reports progress, and refuses numbers that are not finite."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from diamond_bench.errors import UserError
from diamond_bench.training.checkpoint import (
    CheckpointWriter,
    arithmetic_name,
    load_checkpoints,
    set_aside_checkpoint,
    set_aside_checkpoints,
)
from diamond_bench.training.log import NotFinite

_LONG_SECONDS = 5.0
"""A unit that took longer is followed by a checkpoint."""


class StoppedWithin(Exception):
    """A unit was abandoned because the training was asked to stop. The training is in its state before the unit."""


class Unusable(Exception):
    """A checkpoint that is sound but lacks a file that it needs. The message names the file."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint."""

    done: int
    """Units done at the time of saving."""
    state: dict[str, Any]
    """`Training.state_dict`, with tensors on the CPU."""


class Training(Protocol):
    """A training as a sequence of units, such as updates. It can be saved between any two of them."""

    @property
    def done(self) -> int:
        """Units done since the start of the first attempt."""
        ...

    @property
    def execution(self) -> "Executed":
        """The execution of its arithmetic."""
        ...

    def units(self) -> Iterator[bool]:
        """Does the remaining units. Yields before each of them: true if a checkpoint is due there in any case."""
        ...

    def where(self) -> str:
        """The position in words that follow "resumed" and "saved": "after update 3 of 9"."""
        ...

    def progress(self) -> tuple[int, int, str]:
        """Done, total, and a description of the present work."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state that later units need, as tensors and plain values. Raises NotFinite rather than save a useless state."""
        ...

    def close(self) -> None:
        """Releases all resources. Called once, however the training ends."""
        ...


class LoopContext(Protocol):
    """The part of a job's context that a loop uses; `JobContext` has it all."""

    @property
    def folder(self) -> Path: ...
    @property
    def device(self) -> str: ...
    @property
    def progress(self) -> Callable[[int, int, str], None]: ...
    @property
    def should_stop(self) -> Callable[[], bool]: ...
    @property
    def say(self) -> Callable[[str], None]: ...
    @property
    def check_owner(self) -> Callable[[], None]: ...
    @property
    def losing_nothing(self) -> Callable[[Callable[[], bool]], None]: ...


class Executed(Protocol):
    """How the arithmetic is done; `Execution` is one."""

    @property
    def compile(self) -> str:
        """none, or the part of the networks that is compiled."""
        ...

    @property
    def precision(self) -> str:
        """fp32, tf32 or bf16."""
        ...


@dataclass(frozen=True)
class Begun:
    """The execution with which the training of a checkpoint began, on the same kind of device."""

    compile: str
    precision: str | None = None
    """None in a checkpoint of an earlier version, which had no precision to decide."""


E = TypeVar("E", bound=Executed)
T = TypeVar("T", bound=Training)


@dataclass(frozen=True)
class Loop:
    """Runs a training in a job's folder. Checkpoints lie in its checkpoint/ folder, and the newest two are kept."""

    context: LoopContext
    every: int
    """Number of units between checkpoints."""
    remedy: str = "try a lower training.learning_rate"
    """Advice to the user for a loss that is not finite."""

    def begin(self, resolve: Callable[[Begun | None], E], build: Callable[[E, Saved | None], T]) -> T:
        """The training at the newest usable checkpoint, or a new one.

        `resolve`: decides the execution, given that of the checkpoint (None without one). If it raises UserError, the checkpoint stays. A
        checkpoint of other arithmetic (another device, or other compiled code) is set aside, since resuming from it would mix two kinds of
        rounding. `build` creates the training. If it raises Unusable, the previous checkpoint is tried.
        """
        folder, say = self._folder, self.context.say
        for done, state, file in load_checkpoints(folder, say):
            begun, there = Begun(state.pop("compile", "none"), state.pop("precision", None)), state.pop("device")
            execution = resolve(begun if there == self._device_type else None)
            theirs, ours = arithmetic_name(there, begun.compile), arithmetic_name(self._device_type, execution.compile)
            if theirs != ours:
                say(f"the checkpoint was made on {theirs}; restarting on {ours}")
                break
            try:
                training = build(execution, Saved(done, state))
            except Unusable as error:
                say(f"{error}; the checkpoint after unit {done} cannot be used without it, trying the previous one")
                set_aside_checkpoint(file)
                continue
            say(f"resumed {training.where()}")
            return training
        set_aside_checkpoints(folder)  # of no use to a run that restarts
        return build(resolve(None), None)

    def run(self, training: Training) -> bool:
        """Does the remaining units. Returns true when none is left, and false if the training was asked to stop (it is then saved).

        A unit that took long is saved at once, so that the next one can be left in the middle without losing more than itself. Raises
        UserError, with advice, if a loss is not finite. The last good checkpoint stays.
        """
        context, begun = self.context, training.done
        saved = begun
        try:
            with CheckpointWriter(self._folder, context.check_owner) as writer:
                context.losing_nothing(lambda: training.done in (begun, writer.written))
                try:
                    started = time.monotonic()
                    for due in training.units():
                        long, started = time.monotonic() - started > _LONG_SECONDS, time.monotonic()
                        context.progress(*training.progress())
                        if training.done == saved:
                            continue  # nothing new to save
                        stopping = context.should_stop()
                        if stopping or due or long or training.done // self.every > saved // self.every:
                            saved = self._save(training, writer)
                        if stopping:
                            return False
                except StoppedWithin:
                    if training.done > saved:
                        self._save(training, writer)
                    return False
                context.progress(*training.progress())
                if training.done > saved:
                    self._save(training, writer)
                return True
        except NotFinite as error:
            newest = max((path.name for path in self._folder.glob("step-*.pt")), default="none was due yet")
            raise UserError(
                f"training stopped {training.where()}: {error}. Last good checkpoint: {newest}. Advice: {self.remedy}"
            ) from error
        finally:
            training.close()

    def _save(self, training: Training, writer: CheckpointWriter) -> int:
        self.context.check_owner()
        way = {"compile": training.execution.compile, "precision": training.execution.precision}
        state = {"device": self._device_type, **way, **training.state_dict()}
        writer.save(training.done, state)
        return training.done

    @property
    def _folder(self) -> Path:
        return self.context.folder / "checkpoint"

    @property
    def _device_type(self) -> str:
        return torch.device(self.context.device).type
