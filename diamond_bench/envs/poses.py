"""Where a player stands and looks, packed into the memory that datasets store with each frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VARIABLES = ("x", "y", "z", "angle", "pitch", "health", "kills")
"""The packed numbers, in order, as little-endian float32. x, y and z in map units, angle in degrees counterclockwise from the x axis."""
MEMORY = 128
"""Bytes of a memory."""


@dataclass(frozen=True)
class Poses:
    """Positions and directions of view of N frames."""

    positions: "npt.NDArray[np.float32]"
    """(..., 2), x and y in map units."""
    angles: "npt.NDArray[np.float32]"
    """(...), radians, counterclockwise from the x axis."""


def pack_variables(values: "Sequence[float]") -> "npt.NDArray[np.uint8]":
    """The memory (128,) uint8 of the numbers in `VARIABLES`, followed by zeros."""
    import numpy as np

    packed = np.zeros(MEMORY, np.uint8)
    packed[: 4 * len(VARIABLES)] = np.array(values, "<f4").view(np.uint8)
    return packed


def read_variable(ram: "npt.NDArray[np.uint8]", name: str) -> "npt.NDArray[np.float32]":
    """One of `VARIABLES` of memories (..., 128) -> (...)."""
    import numpy as np

    if ram.shape[-1] != MEMORY:
        raise ValueError(f"expected memories of {MEMORY} bytes, got the shape {ram.shape}")
    first = 4 * VARIABLES.index(name)
    values: npt.NDArray[np.float32] = np.ascontiguousarray(ram[..., first : first + 4]).view("<f4")[..., 0]
    return values


def read_poses(ram: "npt.NDArray[np.uint8]") -> Poses:
    """The poses in memories (..., 128). Raises ValueError for another shape."""
    import numpy as np

    positions = np.stack([read_variable(ram, "x"), read_variable(ram, "y")], axis=-1)
    return Poses(positions, np.deg2rad(read_variable(ram, "angle")))
