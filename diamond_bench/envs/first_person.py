"""The actions of first-person games: keys, clicks and mouse bins, in the order of the CS:GO data (Pearce and Zhu 2022). Without torch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diamond_bench.spaces import ActionSpec

KEYS = ("forward", "left", "back", "right", "jump", "crouch", "run", "weapon_1", "weapon_2", "weapon_3", "use")
"""w, a, s, d, space, ctrl, shift, 1, 2, 3 and r of the CS:GO data. In Doom shift runs, and r is `use`, because there is no reload."""
CLICKS = ("fire", "alt_fire")
MOUSE = ("mouse_x", "mouse_y")
"""Columns whose values are bins of mouse motion."""
MOUSE_X = (-1000, -500, -300, -200, -100, -60, -30, -20, -10, -4, -2, 0, 2, 4, 10, 20, 30, 60, 100, 200, 300, 500, 1000)
"""Counts of each bin of mouse_x. Positive motion turns right."""
MOUSE_Y = (-200, -100, -50, -20, -10, -4, -2, 0, 2, 4, 10, 20, 50, 100, 200)
"""Counts of each bin of mouse_y. Positive motion looks down."""
DEGREES_PER_COUNT = 0.055
"""0.00096 radians, the CS:GO data's sensitivity."""
_DOOM_TURNS = (1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 32, 48)
DOOM_TURNS = (*(-turn for turn in reversed(_DOOM_TURNS)), 0, *_DOOM_TURNS)
"""The bins of mouse_x in recordings of Doom players, in their unit of 360 / 256 degrees. In the bins of CS:GO, turns of 15 to 28 units, the
strong ones of these players, would be one."""
DOOM_MOUSE_X = tuple(round(turn * 360 / 256 / DEGREES_PER_COUNT) for turn in DOOM_TURNS)
"""Counts of each of these bins."""
ACTIONS = ActionSpec.columns((2,) * (len(KEYS) + len(CLICKS)) + (len(MOUSE_X), len(MOUSE_Y)), (*KEYS, *CLICKS, *MOUSE))
"""13 columns of 0 or 1 and two of bins. The concatenated one-hots of the bins and the 13 bits are the 51-vector of the CS:GO data."""


def bins_of(name: str, size: int) -> tuple[int, ...] | None:
    """The counts of a column's bins, ascending. None for a column of another name or size."""
    known = {("mouse_x", len(MOUSE_X)): MOUSE_X, ("mouse_x", len(DOOM_MOUSE_X)): DOOM_MOUSE_X, ("mouse_y", len(MOUSE_Y)): MOUSE_Y}
    return known.get((name, size))


def nearest_bin(bins: Sequence[int], counts: float) -> int:
    """The number of the bin that is nearest to a motion, the first of two equally near ones."""
    return int(np.argmin(np.abs(np.asarray(bins) - counts)))


def no_motion() -> npt.NDArray[np.int64]:
    """The action without keys, clicks and motion, (15,)."""
    action = np.zeros(len(ACTIONS.sizes), np.int64)
    action[-2:] = MOUSE_X.index(0), MOUSE_Y.index(0)
    return action
