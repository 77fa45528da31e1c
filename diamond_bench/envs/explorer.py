"""Scripted policies for first-person maps. Without torch."""

import numpy as np
import numpy.typing as npt

from diamond_bench.envs.first_person import ACTIONS, DEGREES_PER_COUNT, MOUSE_X, nearest_bin, no_motion
from diamond_bench.envs.poses import read_variable

_PERSISTENCE, _TURN = 0.9, 40.0
"""The turn of a step is an AR(1) process: this share of the last one, plus noise with this standard deviation in counts."""
_STOPPED = 2.0
"""Map units per step below which the player stands still. Walking is about 17."""
_PATIENCE = 3
"""Steps of standing still after which the direction jumps."""
_JUMP = (60.0, 180.0)
"""Range of a jump of the direction in degrees, to either side."""
_LOOKS = (0, 30, 60, 100)
"""Counts per step of the turns that `Looker` holds, to either side."""
_COLUMN = {name: number for number, name in enumerate(ACTIONS.names)}


class Explorer:
    """Walks forward with a smoothly random turn, fires and uses at times, and turns away from what stops it.

    Uniformly random actions look at walls: they turn as often left as right, and walk back as often as forward.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._turn, self._owed = 0.0, 0.0
        self._still = 0
        self._place: npt.NDArray[np.float32] | None = None

    def __call__(self, ram: npt.NDArray[np.uint8], last_action: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The action (15,). `ram`: the packed variables of the present frame."""
        place = np.array([read_variable(ram, "x"), read_variable(ram, "y")])
        moved = np.inf if self._place is None else float(np.linalg.norm(place - self._place))
        self._place = place
        self._still = self._still + 1 if moved < _STOPPED else 0
        noise, coins = float(self._rng.normal()), self._rng.random(4)
        degrees = float(self._rng.uniform(*_JUMP)) * float(self._rng.choice((-1, 1)))
        self._turn = _PERSISTENCE * self._turn + _TURN * noise
        if self._still >= _PATIENCE and not self._owed:
            self._owed, self._turn, self._still = degrees / DEGREES_PER_COUNT, 0.0, 0
        action = no_motion()
        action[_COLUMN["forward"]] = coins[0] < 0.95
        action[_COLUMN["fire"]] = coins[1] < 0.03
        action[_COLUMN["use"]] = coins[2] < (0.3 if self._still else 0.02)
        action[_COLUMN["left" if coins[3] < 0.5 else "right"]] = abs(coins[3] - 0.5) > 0.48
        wanted = self._owed or self._turn
        action[_COLUMN["mouse_x"]] = nearest_bin(MOUSE_X, wanted)
        if self._owed:
            left = self._owed - MOUSE_X[action[_COLUMN["mouse_x"]]]
            self._owed = left if abs(left) >= -MOUSE_X[0] / 2 else 0.0
        return action


class Looker:
    """Turns to both sides, each turn held for about three steps, and at times walks forward for about ten steps.

    While it stands, its actions alone explain how the picture changes. A walking player's picture changes mostly because things come
    nearer.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._counts, self._walks = 0, False

    def __call__(self, ram: npt.NDArray[np.uint8], last_action: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The action (15,)."""
        counts, coins = int(self._rng.choice(_LOOKS)) * int(self._rng.choice((-1, 1))), self._rng.random(2)
        if coins[0] < 0.3:
            self._counts = counts
        if coins[1] < (0.1 if self._walks else 0.005):
            self._walks = not self._walks
        action = no_motion()
        action[_COLUMN["forward"]] = self._walks
        action[_COLUMN["mouse_x"]] = nearest_bin(MOUSE_X, self._counts)
        return action
