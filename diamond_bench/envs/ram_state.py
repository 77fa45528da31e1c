"""Positions of the ball, the paddles and the players of Atari games, read from the console's memory.

Planning uses the table, so this module imports no torch, and NumPy only where memories are read.

The addresses agree with those of Anand et al. 2019 (AtariARI). Offsets, sizes and fields were measured on the 210 x 160 screens of each
game, by colour (tests/test_state_probe.py measures them again). The memory of a step is that of its last emulator frame. An observation is
the maximum over the last two frames, so the middle of a moving object may differ by half a frame's move from the position here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SCREEN = (160, 210)
"""Width and height of the screen in its own pixels."""


@dataclass(frozen=True)
class Coordinate:
    """One coordinate of an object's middle on the screen, in screen pixels: offset + sign * RAM[address]. Without an address it is
    constant."""

    offset: float
    address: int | None = None
    sign: int = 1


@dataclass(frozen=True)
class GameObject:
    """An object of a game, and how to read its position."""

    x: Coordinate
    y: Coordinate
    size: tuple[int, int]
    """Width and height of its box, in screen pixels."""
    field: tuple[float, float, float, float] = (0.0, 0.0, 160.0, 210.0)
    """Left, top, right and bottom of the area where it is drawn. Parts outside are cut off. Zeros, for objects not in play, lie outside."""


_BREAKOUT = (8.0, 32.0, 152.0, 193.0)
_PONG = (0.0, 34.0, 160.0, 194.0)

OBJECTS: Mapping[str, Mapping[str, GameObject]] = {
    "Breakout": {
        "ball": GameObject(Coordinate(-48.0, 99), Coordinate(11.0, 101), (2, 4), _BREAKOUT),
        "paddle": GameObject(Coordinate(-39.0, 72), Coordinate(191.0), (16, 4), _BREAKOUT),
    },
    "Pong": {
        "ball": GameObject(Coordinate(-48.0, 49), Coordinate(-12.0, 54), (2, 4), _PONG),
        "player": GameObject(Coordinate(142.0), Coordinate(-5.5, 51), (4, 16), _PONG),
        "enemy": GameObject(Coordinate(18.0), Coordinate(-7.0, 50), (4, 16), _PONG),
    },
    "Boxing": {
        "player": GameObject(Coordinate(12.0, 32), Coordinate(61.5, 34), (14, 47)),
        "enemy": GameObject(Coordinate(10.0, 33), Coordinate(60.5, 35), (14, 47)),
    },
    "Freeway": {"chicken": GameObject(Coordinate(47.0), Coordinate(197.0, 14, -1), (6, 8))},
}
"""The objects of each game whose memory is known."""


@dataclass(frozen=True)
class States:
    """Positions of the K objects of a game in N frames, in the order of the game's table."""

    positions: "npt.NDArray[np.float32]"
    """(..., K, 2): x and y of the middle of each object's visible part, as fractions of the frame's sides, from the upper left corner. 0 if
    it is not there."""
    present: "npt.NDArray[np.bool_]"
    """(..., K)."""


def read_states(game: str, ram: "npt.NDArray[np.uint8]") -> States:
    """The states read from memories (..., 128). Raises KeyError for a game without a table, and ValueError for another shape."""
    import numpy as np

    if ram.shape[-1] != 128:
        raise ValueError(f"expected memories of 128 bytes, got the shape {ram.shape}")
    read = [_read(thing, ram) for thing in OBJECTS[game].values()]
    return States(np.stack([position for position, _ in read], axis=-2), np.stack([present for _, present in read], axis=-1))


def _read(thing: GameObject, ram: "npt.NDArray[np.uint8]") -> "tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]":
    import numpy as np

    middles, present = [], np.ones(ram.shape[:-1], bool)
    for axis, coordinate in enumerate((thing.x, thing.y)):
        value = 0.0 if coordinate.address is None else ram[..., coordinate.address].astype(np.float32)
        middle = np.broadcast_to(np.float32(coordinate.offset) + coordinate.sign * value, ram.shape[:-1])
        low = np.maximum(middle - thing.size[axis] / 2, thing.field[axis])
        high = np.minimum(middle + thing.size[axis] / 2, thing.field[axis + 2])
        present = present & (high > low)
        middles.append((low + high) / 2 / SCREEN[axis])
    return np.where(present[..., None], np.stack(middles, axis=-1), 0.0).astype(np.float32), present
