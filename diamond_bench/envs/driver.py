"""A scripted driver for roads with traffic. Without torch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MEMORY = 128
"""Bytes of a memory."""
VARIABLES = ("offset", "heading", "speed", "gap", "left", "right")
"""The packed numbers, in order, as little-endian float32: metres from the middle of the lane and radians from its direction, both positive
to the right, metres per second, metres to the car ahead, and 1 if there is a lane on the left and on the right, else 0."""
NOTHING_AHEAD = 1000.0
"""The gap where no car is ahead."""
_LANE = 4.0
"""Width of a lane in metres."""
_CHANGE = 0.02
"""Probability per step that a lane change begins."""
_SPEEDS = (18.0, 30.0)
"""Range of the speed that a driver wants, in metres per second, drawn again at each lane change."""
_LENGTH, _STEERING, _ACCELERATION = 5.0, np.pi / 4, 5.0
"""Length of the car in metres, and the largest steering angle and acceleration."""


def pack_state(values: Sequence[float]) -> npt.NDArray[np.uint8]:
    """The memory (128,) uint8 of the numbers in `VARIABLES`, followed by zeros."""
    packed = np.zeros(MEMORY, np.uint8)
    packed[: 4 * len(VARIABLES)] = np.array(values, "<f4").view(np.uint8)
    return packed


class Driver:
    """Keeps its lane and its distance, and changes lane and speed at random times. Its steering trembles a little."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._wanted = float(rng.uniform(*_SPEEDS))
        self._shift, self._last, self._tremble = 0.0, 0.0, 0.0

    def __call__(self, ram: npt.NDArray[np.uint8], last_action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The action (2,): acceleration and steering. `ram`: the packed variables of the present frame."""
        offset, heading, speed, gap, left, right = (float(value) for value in ram[: 4 * len(VARIABLES)].view("<f4"))
        coin, side, fast, noise = self._rng.random(), self._rng.random(), float(self._rng.uniform(*_SPEEDS)), float(self._rng.normal())
        if abs(offset - self._last) > _LANE / 2:  # the car is in another lane now
            self._shift = 0.0
        self._last = offset
        if not self._shift and coin < _CHANGE:
            self._wanted = fast
            self._shift = (-_LANE if side < 0.5 else _LANE) if (left if side < 0.5 else right) else 0.0
        self._tremble = 0.9 * self._tremble + 0.004 * noise
        speed = max(speed, 1.0)
        direction = np.clip(0.6 * (self._shift - offset) / speed, -0.3, 0.3)
        steering = 2.0 * _LENGTH * (direction - heading) / speed / _STEERING + self._tremble
        close = gap < _LENGTH + 1.2 * speed
        acceleration = -1.0 if close else 0.6 * (self._wanted - speed) / _ACCELERATION
        return np.clip((acceleration, steering), -1.0, 1.0).astype(np.float32)
