"""A tiny real game: a counter with lives, whose frame shows where it stands, so that every frame, action and reward can be told."""

import json
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from diamond_bench.envs.lives import LifeLossEnds

SIZE = 8


class CountGame(gymnasium.Env[Any, int]):
    """Every pixel of a frame is (count, game number, lives). An action adds to the count; reward = 10 * count at multiples of 4.

    At 12 a life is lost and the count is halved (the game goes on); with the third, the game is over. A game of 50 steps is cut.
    The first count of a game is random.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(3)  # type: ignore[assignment]
        self._count = self._lives = self._steps = 0
        self._game = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._count, self._lives, self._steps = int(self.np_random.integers(4)), 3, 0
        self._game += 1
        return self._frame(), {"life_loss": False, "lives": 3}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._count += int(action)
        self._steps += 1
        lost = self._count >= 12
        self._lives -= lost
        reward = 10.0 * self._count * (self._count % 4 == 0) if action else -1.0
        self._count -= (self._count // 2) * lost
        over = self._lives == 0
        return self._frame(), reward, over, self._steps >= 50 and not over, {"life_loss": lost, "lives": self._lives}

    def _frame(self) -> Any:
        return np.full((SIZE, SIZE, 3), (self._count, self._game, self._lives), np.uint8)

    def save_state(self) -> dict[str, Any]:
        numbers = [self._count, self._lives, self._steps, self._game]
        return {"numbers": numbers, "random": json.dumps(self.np_random.bit_generator.state)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._count, self._lives, self._steps, self._game = state["numbers"]
        self.np_random.bit_generator.state = json.loads(state["random"])


def toy_vector_env(num_envs: int, life_loss_ends: bool = False) -> SyncVectorEnv:
    """Games side by side, as `vector_env` makes them."""

    def make() -> gymnasium.Env[Any, int]:
        return LifeLossEnds(CountGame()) if life_loss_ends else CountGame()

    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
