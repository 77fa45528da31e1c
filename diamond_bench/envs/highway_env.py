"""highway-env as a gymnasium environment of pictures. Loads the package highway_env."""

import os
from typing import Any

import cv2
import gymnasium
import highway_env  # noqa: F401  (registers its environments)
import numpy as np
import numpy.typing as npt

from diamond_bench.envs.driver import MEMORY, NOTHING_AHEAD, pack_state
from diamond_bench.envs.lives import Frame
from diamond_bench.envs.replayed import ReplayedEnv
from diamond_bench.envs.roads import ACTIONS, CARS, MAX_STEPS, RATE

_DRAWN = 256
"""Side of the drawn pictures in pixels."""
_SCALING = 5.5
"""Pixels per metre in the drawn pictures, so that they show 46 metres."""


class HighwayEnv(ReplayedEnv):
    """A road with traffic. Observations (frame_size, frame_size, 3) uint8, RGB, from above, drawn at 256 x 256 and resized by area.
    Actions: `roads.ACTIONS`.

    The rewards are those of highway-env. An accident, the end of the road, or leaving a highway ends an episode. It is truncated after 40
    seconds. info has `ram` ((128,) uint8, the numbers of `driver.VARIABLES`). Traffic draws its random numbers at the start, so an episode
    is a function of its seed and its actions.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": RATE}  # noqa: RUF012  (gymnasium's own contract)
    render_mode = "rgb_array"
    max_steps = MAX_STEPS

    def __init__(self, name: str, frame_size: int) -> None:
        """`name`: gymnasium's id."""
        config = {
            "observation": {"type": "Kinematics"},  # unused, and the only one that fits all roads
            "action": {"type": "ContinuousAction"},
            "vehicles_count": CARS,
            "simulation_frequency": RATE,
            "policy_frequency": RATE,
            "duration": MAX_STEPS / RATE,
            "offroad_terminal": True,
            "screen_width": _DRAWN,
            "screen_height": _DRAWN,
            "scaling": _SCALING,
        }
        os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")  # otherwise SDL first tries desktops, and prints what they lack
        self._world: Any = gymnasium.make(name, render_mode="rgb_array", config=config, disable_env_checker=True).unwrapped
        self._size = frame_size
        self.action_space = ACTIONS.space()
        self.observation_space = gymnasium.spaces.Box(0, 255, (frame_size, frame_size, 3), np.uint8)
        self._frame: Frame = np.zeros((frame_size, frame_size, 3), np.uint8)

    def begin(self, seed: int) -> tuple[Frame, dict[str, Any]]:
        """See `ReplayedEnv.begin`."""
        self._world.reset(seed=seed)
        return self._look(), {"ram": self._ram()}

    def advance(self, action: npt.NDArray[Any], shown: bool) -> tuple[Frame, float, bool, dict[str, Any]]:
        """See `ReplayedEnv.advance`."""
        _, reward, ended, _, _ = self._world.step(action)
        return self._look() if shown else self._frame, float(reward), bool(ended), {"ram": self._ram()}

    def render(self) -> Frame:
        """The present frame."""
        return self._frame

    def close(self) -> None:
        """Closes the viewer."""
        self._world.close()

    def _look(self) -> Frame:
        self._frame = cv2.resize(self._world.render(), (self._size, self._size), interpolation=cv2.INTER_AREA)
        return self._frame

    def _ram(self) -> npt.NDArray[np.uint8]:
        car, road = self._world.vehicle, self._world.road
        along, offset = car.lane.local_coordinates(car.position)
        heading = car.heading - car.lane.heading_at(along)
        ahead, _ = road.neighbour_vehicles(car, car.lane_index)
        gap = NOTHING_AHEAD if ahead is None else car.lane_distance_to(ahead)
        next_to = road.network.side_lanes(car.lane_index)
        own = car.lane_index[2]
        left, right = (any(lane[2] == own + step for lane in next_to) for step in (-1, 1))
        wrapped = (heading + np.pi) % (2 * np.pi) - np.pi
        packed = pack_state((offset, wrapped, car.speed, gap, left, right))
        assert packed.shape == (MEMORY,)
        return packed
