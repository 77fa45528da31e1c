"""A long computation in parts. Each is stored when it is finished, so that an interrupted job continues with the next one."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.store.files import read_arrays, write_atomic

Arrays = dict[str, NDArray[Any]]


class Parts:
    """The parts of one job, in its folder's checkpoint/, and its progress over all of them."""

    def __init__(self, context: JobContext, total: int, arithmetic: str | None = None) -> None:
        """`total`: ticks of all parts together. `arithmetic`: a name of the arithmetic with which they are computed, by default the kind of
        device."""
        self._context, self._total, self._done, self._text = context, total, 0, ""
        way = arithmetic or context.device.partition(":")[0]  # another device draws other noise
        self._folder = context.folder / "checkpoint" / way
        self._folder.mkdir(parents=True, exist_ok=True)
        context.losing_nothing(lambda: True)  # finished parts are stored, and `tick` drops an unfinished one as well

    def tick(self) -> None:
        """Reports one finished unit of work, and stops the job if requested."""
        self._done += 1
        self._context.progress(self._done, self._total, self._text)
        if self._context.should_stop():
            raise Interrupted(f"stopped during {self._text}; finished parts are kept")

    def get(self, name: str, text: str, ticks: int, compute: Callable[[], Arrays]) -> Arrays:
        """The arrays of a part: read if an earlier attempt stored them, else computed and stored."""
        self._text = text
        before, file = self._done, self._folder / f"{name}.npz"
        arrays = self._read(file)
        if arrays is None:
            arrays = compute()
            self._context.check_owner()
            save_arrays(file, arrays)
        self._done = before + ticks
        return arrays

    def _read(self, file: Path) -> Arrays | None:
        try:
            return read_arrays(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._context.say(f"{file} is damaged ({error}); computing it again")
            return None


def save_arrays(file: Path, arrays: Arrays, compressed: bool = False) -> None:
    """Writes an .npz file in one piece. Equal arrays give equal bytes."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(file, buffer.getvalue())


def join(parts: Sequence[Arrays]) -> Arrays:
    """Joins the parts of one set along their first axis."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
