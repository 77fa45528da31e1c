"""Follow: a small pixel game for proving that an agent learns in imagination (go where the target is)."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from diamond_bench.envs.family import EnvFamily
from diamond_bench.spaces import ActionSpec, FrameSpec

GAME = "follow/target"
CELLS, PIXELS, STEPS = 4, 4, 8
SIZE = CELLS * PIXELS
NUM_ACTIONS = 3

Frame = npt.NDArray[np.uint8]


class Follow(gymnasium.Env[Frame, int]):
    """4 x 4 cells of 4 x 4 pixels: a white target in the top row, a red walker in the middle, a blue bar below that gets shorter each step.

    The walker stays, goes left or goes right. A step that brings it nearer to the target's column is rewarded with 1, one that leads away
    with -1; when the bar is gone the episode ends. So the return is the distance at the start less that at the end: 1.25 is the best mean;
    going at random, staying, or always going one way gives 0 or less, so that a policy that drifts without learning gains nothing.
    """

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(NUM_ACTIONS)  # type: ignore[assignment]
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.left = self.target = self.walker = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        self.left, self.target, self.walker = STEPS, int(self.np_random.integers(CELLS)), int(self.np_random.integers(CELLS))
        return self._frame(), {}

    def step(self, action: int) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        before = abs(self.walker - self.target)
        self.walker = int(np.clip(self.walker + (0, -1, 1)[int(action)], 0, CELLS - 1))
        self.left -= 1
        now = abs(self.walker - self.target)
        return self._frame(), float(np.sign(before - now)), self.left == 0, False, {}

    def save_state(self) -> dict[str, Any]:
        return {"cells": [self.left, self.target, self.walker], "random": self.np_random.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        self.left, self.target, self.walker = state["cells"]
        self.np_random.bit_generator.state = state["random"]

    def _frame(self) -> Frame:
        cells = np.zeros((CELLS, CELLS, 3), np.uint8)
        cells[0, self.target] = (255, 255, 255)
        cells[CELLS // 2, self.walker] = (255, 0, 0)
        frame = cells.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)
        frame[-PIXELS:, : self.left * SIZE // STEPS] = (0, 0, 255)
        return frame


FAMILY = EnvFamily(
    about="A game of the tests.",
    names=lambda: (GAME,),
    frames=lambda game, config: FrameSpec.square(SIZE),
    actions=lambda game: ActionSpec.discrete(NUM_ACTIONS),
    make=lambda game, config: Follow(),
    conditions=lambda game, config: {"environment": game},
)
