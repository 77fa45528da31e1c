"""Catch: a small pixel game for proving that an agent learns in imagination (a ball falls, a paddle is to be under it)."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from diamond_bench.config import EnvConfig

CELLS, PIXELS = 8, 2
SIZE = CELLS * PIXELS
NUM_ACTIONS = 3
OPTIMAL = 1.0

Frame = npt.NDArray[np.uint8]


class Catch(gymnasium.Env[Frame, int]):
    """8 x 8 cells of 2 x 2 pixels. The ball starts in a random column of the top row and falls a cell a step; the paddle, one cell in
    the bottom row, stays, goes left or goes right. In the bottom row the episode ends with reward 1 (caught) or -1 (missed)."""

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(NUM_ACTIONS)  # type: ignore[assignment]
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.row = self.ball = self.paddle = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(CELLS)), int(self.np_random.integers(CELLS))
        return self._frame(), {}

    def step(self, action: int) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        self.paddle = int(np.clip(self.paddle + (0, -1, 1)[int(action)], 0, CELLS - 1))
        self.row += 1
        over = self.row == CELLS - 1
        return self._frame(), (1.0 if self.paddle == self.ball else -1.0) if over else 0.0, over, False, {}

    def save_state(self) -> dict[str, Any]:
        return {"cells": [self.row, self.ball, self.paddle], "random": self.np_random.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        self.row, self.ball, self.paddle = state["cells"]
        self.np_random.bit_generator.state = state["random"]

    def _frame(self) -> Frame:
        cells = np.zeros((CELLS, CELLS, 3), np.uint8)
        cells[self.row, self.ball] = (255, 255, 255)
        cells[CELLS - 1, self.paddle] += np.array((200, 0, 0), np.uint8) * (cells[CELLS - 1, self.paddle] == 0)
        return cells.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)


def catch_vector_env(game: str, config: EnvConfig, num_envs: int, life_loss_ends: bool = True) -> SyncVectorEnv:
    """In place of `envs.atari.vector_env`."""
    makers: list[Callable[[], gymnasium.Env[Frame, int]]] = [Catch] * num_envs
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def catch_env(game: str, config: EnvConfig) -> Catch:
    """In place of `envs.atari.AtariEnv`."""
    return Catch()
