"""The action vector of Pearce and Zhu's Counter-Strike data: 51 zeros and ones per frame, for the columns of first-person games.

| Numbers | Meaning | Coding |
| --- | --- | --- |
| 0 to 10 | the keys w a s d space ctrl shift 1 2 3 r | each 0 or 1 |
| 11, 12 | left and right mouse button | each 0 or 1 |
| 13 to 35 | movement of the mouse to the right, `MOUSE_X` | one of 23 is 1 |
| 36 to 50 | movement of the mouse down, `MOUSE_Y` | one of 15 is 1 |
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from diamond_bench.envs.first_person import ACTIONS, CLICKS, KEYS, MOUSE_X, MOUSE_Y, no_motion
from diamond_bench.errors import UserError, nearest
from diamond_bench.spaces import ActionSpec

NAMES, SIZES = ACTIONS.names, ACTIONS.sizes
_BITS = len(KEYS) + len(CLICKS)
WIDTH = _BITS + len(MOUSE_X) + len(MOUSE_Y)
_STARTS = tuple(accumulate((len(MOUSE_X),), initial=_BITS))
"""The first number of each movement."""


def decode(vectors: npt.NDArray[np.float64], where: str) -> npt.NDArray[np.int64]:
    """The columns (n, 15) of vectors (n, 51). Raises UserError with the frame of a vector with other numbers than 0 and 1, or whose mouse
    does not have exactly one movement per axis. `where` begins the message."""
    columns = [vectors[:, :_BITS]]
    wrong = ~np.isin(vectors, (0.0, 1.0)).all(axis=1)
    for start, size in zip(_STARTS, SIZES[_BITS:], strict=True):
        movements = vectors[:, start : start + size]
        wrong |= movements.sum(axis=1) != 1
        columns.append(movements.argmax(axis=1)[:, None])
    if wrong.any():
        frame = int(wrong.argmax())
        shown = np.flatnonzero(vectors[frame])[:20].tolist()
        raise UserError(
            f"{where}: frame_{frame}_y is no action: its numbers {shown} are not 0; expected zeros and ones, with a one among 13 to 35 and "
            "one among 36 to 50"
        )
    return np.concatenate(columns, axis=1).astype(np.int64)


def encode(columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The vectors (n, 51) of columns (n, 15)."""
    vectors = np.zeros((len(columns), WIDTH))
    vectors[:, :_BITS] = columns[:, :_BITS]
    for start, column in zip(_STARTS, columns[:, _BITS:].T, strict=True):
        vectors[np.arange(len(columns)), start + column] = 1
    return vectors


class Mapped:
    """The columns of another game's actions as those of the vector, by name. Columns that the game lacks hold no action."""

    def __init__(self, actions: ActionSpec, renamed: Mapping[str, str], left_out: Sequence[str] = ()) -> None:
        """`renamed`: {column of the vector: column of the game}. A column that is not in it has the same name in both.

        `left_out`: columns of the game that are not written. Raises UserError for actions without named columns, for an unknown name, for a
        column with another number of values, and for a column of the game that has no place.
        """
        if actions.kind != "MultiDiscrete" or not actions.names:
            raise UserError(f"the actions of the dataset are {actions}; the layout needs MultiDiscrete actions whose columns have names")
        for target, source in renamed.items():
            if target not in NAMES:
                raise UserError(f"--column {target}={source}: {target!r} is no column of the layout: {nearest(target, NAMES)}")
            if source not in actions.names:
                raise UserError(f"--column {target}={source}: the dataset has no column {source!r}: {nearest(source, actions.names)}")
        named = ((target, renamed.get(target, target)) for target in NAMES)
        self._sources = {target: source for target, source in named if source in actions.names and source not in left_out}
        for name in left_out:
            if name not in actions.names:
                raise UserError(f"--leave-out {name}: the dataset has no such column: {nearest(name, actions.names)}")
        unused = [name for name in actions.names if name not in (*self._sources.values(), *left_out)]
        if unused:
            raise UserError(
                f"the dataset's column {unused[0]!r} has no place in the layout: give it one with --column NAME={unused[0]}, where NAME is "
                f"one of {', '.join(NAMES)}; or leave it out with --leave-out {unused[0]}"
            )
        for target, source in self._sources.items():
            size, expected = actions.sizes[actions.names.index(source)], SIZES[NAMES.index(target)]
            if size != expected:
                raise UserError(f"the dataset's column {source!r} has {size} values, but {target!r} of the layout has {expected}")
        self._names = actions.names

    def __call__(self, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The columns (n, 15) of actions (n, k)."""
        columns = np.tile(no_motion(), (len(actions), 1))
        for target, source in self._sources.items():
            columns[:, NAMES.index(target)] = actions[:, self._names.index(source)]
        return columns
