"""The inputs of a Doom player as actions of several columns, in the manner of the CS:GO data: keys of 0 or 1, and bins of turns."""

import numpy as np
from numpy.typing import NDArray

from diamond_bench.envs.first_person import DOOM_TURNS
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec

WEAPON_KEYS = 7
COLUMNS = {"forward": 2, "left": 2, "back": 2, "right": 2, "use": 2, "fire": 2, "weapon": WEAPON_KEYS + 1, "mouse_x": len(DOOM_TURNS)}
"""Name and number of values of each column."""
ACTIONS = ActionSpec.columns(tuple(COLUMNS.values()), tuple(COLUMNS))
_FIRE, _USE, _CHANGE, _WEAPON, _SPECIAL = 1, 2, 4, 3, 128
"""Bits of the buttons, and the first bit of the weapon's number. In a special command, which pauses or saves, other bits mean other
things."""


def encode(commands: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(T, 8) actions, ACTIONS, of one player's commands (2 T, 4). Each action is that of two tics.

    Movements are summed, and their sign counts. Buttons hold if they are pressed in one of the tics. The later weapon counts. The turns
    are summed, and the nearest bin counts, of two the one that turns less. Raises UserError for a weapon without a key.
    """
    if len(commands) % 2:
        raise ValueError(f"{len(commands)} commands: expected an even number")
    pairs = commands.reshape(-1, 2, 4)
    forward, side, left = pairs[..., :3].view(np.int8).astype(np.int64).sum(axis=1).T
    buttons = np.where(pairs[..., 3] & _SPECIAL, 0, pairs[..., 3]).astype(np.int64)
    weapons = np.where(buttons & _CHANGE, (buttons >> _WEAPON & 7) + 1, 0)
    if weapons.max(initial=0) > WEAPON_KEYS:
        raise UserError(f"a demo chooses weapon {weapons.max()}; expected the keys 1 to {WEAPON_KEYS}")
    columns = {
        "forward": forward > 0,
        "left": side < 0,
        "back": forward < 0,
        "right": side > 0,
        "use": (buttons & _USE > 0).any(axis=1),
        "fire": (buttons & _FIRE > 0).any(axis=1),
        "weapon": np.where(weapons[:, 1] > 0, weapons[:, 1], weapons[:, 0]),
        "mouse_x": _nearest_bin(-left),
    }
    return np.stack([columns[name] for name in COLUMNS], axis=1).astype(np.int64)


def _nearest_bin(right: NDArray[np.int64]) -> NDArray[np.int64]:
    bins = np.array(DOOM_TURNS)
    distance = np.abs(right[:, None] - bins) + 1e-3 * np.abs(bins)  # of two equally near bins, the one that turns less
    return np.asarray(distance.argmin(axis=1), np.int64)
