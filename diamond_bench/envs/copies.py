"""Observations that do not change later: many environments write each new observation into the array that they returned before."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

from diamond_bench.envs.lives import Frame


class CopiedFrames(gymnasium.Wrapper[Frame, int, Frame, int]):
    """Returns copies of the observation and of the arrays in info. All code that keeps frames plays in environments with this wrapper."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """See the environment."""
        frame, info = self.env.reset(seed=seed, options=options)
        return np.array(frame), _copied(info)

    def step(self, action: int) -> tuple[Frame, Any, bool, bool, dict[str, Any]]:
        """See the environment."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        return np.array(frame), reward, terminated, truncated, _copied(info)


def copy_frames(env: SyncVectorEnv) -> None:
    """Wraps each environment in `CopiedFrames`. Otherwise a final observation could show the following reset."""
    env.envs = [one if isinstance(one, CopiedFrames) else CopiedFrames(one) for one in env.envs]


def _copied(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in info.items()}
