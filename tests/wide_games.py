"""Two families of environments with frames of 24 x 40: one of MultiDiscrete actions and no rewards, one of Box actions."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from diamond_bench.config import EnvConfig
from diamond_bench.envs.family import EnvFamily
from diamond_bench.spaces import ActionSpec, FrameSpec

HEIGHT, WIDTH = 24, 40
COLUMNS = ActionSpec.columns((3, 2), ("red", "blue"))
NUMBERS = ActionSpec.continuous((-1.0, 0.0), (1.0, 4.0), ("red", "blue"))
STEPS = 40


class Tints(gymnasium.Env[Any, Any]):
    """A frame shows the last action: its two columns are the frame's red and blue. A green dot walks at random in the top row."""

    def __init__(self, actions: ActionSpec) -> None:
        self._spec = actions
        self.action_space = actions.space()
        self.observation_space = gymnasium.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps, self._dot = 0, int(self.np_random.integers(WIDTH))
        return self._frame(np.zeros(2)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self._steps += 1
        self._dot = (self._dot + int(self.np_random.integers(3)) - 1) % WIDTH
        return self._frame(self.brightness(action)), 7.0, False, self._steps >= STEPS, {}

    def brightness(self, action: Any) -> Any:
        """Of red and blue, from 0 to 1."""
        if self._spec.low:
            return (action - np.array(self._spec.low)) / (np.array(self._spec.high) - np.array(self._spec.low))
        return action / (np.array(self._spec.sizes) - 1)

    def _frame(self, brightness: Any) -> Any:
        frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        frame[:, :, [0, 2]] = np.round(200 * brightness)
        frame[:2, self._dot, 1] = 255
        return frame


def _conditions(game: str, config: EnvConfig) -> Mapping[str, Any]:
    return {"environment": game, "life_rule": "no lives", "action_set": "all"}


def _family(name: str, actions: ActionSpec, rewards: bool) -> EnvFamily:
    return EnvFamily(
        about="red and blue as the last action says",
        names=lambda: (name,),
        frames=lambda game, config: FrameSpec(HEIGHT, WIDTH),
        actions=lambda game: actions,
        make=lambda game, config: Tints(actions),
        conditions=_conditions,
        action_kind=actions.kind,
        rewards=rewards,
    )


COLUMNS_FAMILY = _family("columns/tints", COLUMNS, rewards=False)
NUMBERS_FAMILY = _family("numbers/tints", NUMBERS, rewards=True)
FAMILIES = {"columns/": f"{__name__}:COLUMNS_FAMILY", "numbers/": f"{__name__}:NUMBERS_FAMILY"}
