"""Lost lives as ends of training episodes."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]
"""(h, w, 3) bytes, RGB."""


class LifeLossEnds(gymnasium.Wrapper[Frame, Any, Frame, Any]):
    """Training's rule: a lost life terminates the episode but not the game.

    The reset after such an end does not touch the emulator: the next episode's first frame is the last one's final observation. A reset
    with a seed, or after a real game over, starts a new game. info has an additional `game_over` (bool): the game itself ended (game over
    or the emulator's frame limit).
    """

    def __init__(self, env: gymnasium.Env[Frame, Any]) -> None:
        super().__init__(env)
        self.resume: tuple[Frame, dict[str, Any]] | None = None
        """The result of the next reset, if the game continues."""

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """See the environment. terminated is also true if a life is lost (info["life_loss"])."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        info["game_over"] = terminated or truncated
        self.resume = (frame, {**info, "life_loss": False}) if info["life_loss"] and not info["game_over"] else None
        return frame, float(reward), terminated or info["life_loss"], truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Begins the next episode: in the same game after a lost life, else in a new one."""
        resume, self.resume = self.resume, None
        if resume is not None and seed is None:
            return resume
        frame, info = self.env.reset(seed=seed, options=options)
        return frame, {**info, "game_over": False}
