"""The log of a training: metrics.jsonl and TensorBoard, without a host synchronisation per step."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch


class NotFinite(Exception):
    """A loss or gradient became NaN or infinite."""


class Journal:
    """metrics.jsonl and TensorBoard of a job: one line per step, without numbers that were not measured then."""

    def __init__(self, folder: Path, step: int) -> None:
        """`step`: steps already done. Later lines, left by an interrupted attempt, are deleted."""
        from torch.utils.tensorboard import SummaryWriter

        self._file = folder / "metrics.jsonl"
        _cut(self._file, step)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line."""
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes TensorBoard's file."""
        self._board.close()


class TrainingLog:
    """Collects a few scalars per step on the device. Writes their means to a job's folder after every `every` steps."""

    def __init__(
        self, folder: Path, names: tuple[str, ...], every: int, step: int, pending: torch.Tensor, optional: tuple[str, ...] = ()
    ) -> None:
        """`step`: updates already done. Later lines, left by an interrupted attempt, are deleted. `pending`: what `pending` returned, on
        the device that collects the scalars. `optional`: further scalars, which only some updates have."""
        self._journal = Journal(folder, step)
        self._names, self._required = (*names, *optional), len(names)
        self._absent = torch.full((), math.nan, device=pending.device)
        self._values = self._absent.repeat(every, len(self._names))
        self._held = len(pending)
        self._values[: self._held, : pending.shape[1]] = pending  # earlier versions saved no optional scalars
        self._step = step
        self.last: dict[str, float] = {}

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        """Adds the scalars of one update. Raises NotFinite with the update's number, at the latest when they are due to be written."""
        torch.stack([values.get(name, self._absent).detach().float() for name in self._names], out=self._values[self._held])
        self._held += 1
        self._step += 1
        if self._held == len(self._values):
            self.write()

    def pending(self) -> torch.Tensor:
        """The scalars of the last updates that are in no line yet, (0..every-1, scalars), NaN where an update has none. For a checkpoint:
        on the CPU, so it waits for the device. Raises NotFinite."""
        values = self._values[: self._held].cpu().clone()
        wrong = (~torch.isfinite(values[:, : self._required])).any(dim=1).nonzero()
        if len(wrong):
            index = int(wrong[0])
            shown = ", ".join(
                f"{name} {value:g}" for name, value in zip(self._names, values[index, : self._required].tolist(), strict=False)
            )
            raise NotFinite(f"update {self._step - self._held + 1 + index}: not finite ({shown})")
        return values

    def write(self) -> None:
        """Writes one line with the means of the collected scalars."""
        if not self._held:
            return
        means = self.pending().double().nanmean(dim=0).tolist()
        found = zip(self._names, means, strict=True)
        self.last = {name: mean for name, mean in found if mean == mean}
        self._journal.write(self._step, self.last)
        self._held = 0

    def close(self) -> None:
        """Flushes TensorBoard's file."""
        self._journal.close()


def _cut(file: Path, step: int) -> None:
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line).get("step", math.inf) <= step:  # not load_json, since a value may be NaN
                kept.append(line)
        except (ValueError, AttributeError, TypeError, RecursionError):
            continue  # the partial line of a killed process, or a line that no training wrote
    partial = file.with_suffix(".partial")
    partial.write_text("".join(f"{line}\n" for line in kept))
    partial.replace(file)
