"""What a frame shows where, in a game whose world is known: the things, when each was seen last, and how well each can be guessed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NOTHING = -1
"""The number of a cell that always looks the same, such as a wall."""


@dataclass(frozen=True)
class Sights:
    """The things that N frames show. A frame is divided into equal cells, and each cell shows one thing.

    A thing is all that has one appearance per episode: a place of the world, an object, a counter. A frame without memory of a thing says
    nothing about it, and a frame with memory of it determines it.
    """

    things: "npt.NDArray[np.int64]"
    """(N, rows, columns): the number of the thing in each cell, or NOTHING."""
    kinds: "npt.NDArray[np.int64]"
    """(N, rows, columns): the kind of the thing, an index of `names`. Any number where `things` is NOTHING."""
    names: tuple[str, ...]
    """The kinds of things."""
    guesses: "npt.NDArray[np.float64]"
    """(kinds, 3): for each kind the mean of its colours, RGB in [0, 1]. It is the best guess without memory, and no thing has it."""


@dataclass(frozen=True)
class Gaps:
    """When the things of N frames were seen before. All arrays are (N, rows, columns), in steps of the episode."""

    last: "npt.NDArray[np.int32]"
    """Steps since the thing was last visible: 1 if the previous frame shows it, 0 if no earlier frame of the episode does."""
    first: "npt.NDArray[np.int32]"
    """The step at which the thing was visible for the first time."""


def find_gaps(things: "npt.NDArray[np.int64]", lengths: Iterable[int]) -> Gaps:
    """The gaps of all frames of consecutive episodes with these numbers of frames. Cells that show NOTHING have the gap 1.

    Args:
        things: `Sights.things`, (N, rows, columns).
        lengths: frames of each episode. Their sum is N.
    """
    import numpy as np

    gaps = Gaps(np.ones(things.shape, np.int32), np.zeros(things.shape, np.int32))
    row, number = 0, int(things.max(initial=0)) + 1
    for length in lengths:
        last, first = np.full(number, -1), np.full(number, -1)
        for step in range(length):
            shown = things[row + step] != NOTHING
            numbers = things[row + step][shown]
            fresh = last[numbers] < 0
            first[numbers[fresh]] = step
            gaps.last[row + step][shown] = np.where(fresh, 0, step - last[numbers])
            gaps.first[row + step][shown] = first[numbers]
            last[numbers] = step
        row += length
    return gaps
