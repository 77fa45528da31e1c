"""Threads that read the parts of a batch (`training.readers`)."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt


class Readers:
    """Runs work in `count` threads, or in the caller's thread if `count` is 0."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, "segments") if count else None

    def each(self, work: Callable[..., None], items: Iterable[tuple[Any, ...]]) -> None:
        """Calls work(*item) for every item and waits until all are done. Raises what `work` raises."""
        if self._threads is None:
            for item in items:
                work(*item)
        else:
            list(self._threads.map(lambda item: work(*item), items))

    def close(self) -> None:
        """Ends the threads."""
        if self._threads is not None:
            self._threads.shutdown()


def by_part(rows: npt.NDArray[np.int64], firsts: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """(part, indices of those of `rows` that lie in it) for each part that is needed. Padding, which is -1, is left out.

    `firsts`: the first row of each part, ascending.
    """
    wanted = np.flatnonzero(rows >= 0)
    parts = np.searchsorted(firsts, rows[wanted], side="right") - 1
    order = np.argsort(parts, kind="stable")
    numbers, first = np.unique(parts[order], return_index=True)
    return zip(numbers.tolist(), np.split(wanted[order], first[1:]), strict=True)
