"""A wrapper that compares an environment with its family's description, so that a mistake in a new family is reported at the step where it
occurs."""

import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from diamond_bench.envs.lives import Frame
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec, WorldSpec


class CheckedEnv(gymnasium.Wrapper[Frame, Any, Frame, Any]):
    """Passes everything through. Raises UserError for a space, frame, reward or end that contradicts `spec`."""

    def __init__(self, env: gymnasium.Env[Frame, Any], game: str, spec: WorldSpec) -> None:
        super().__init__(env)
        self._game, self._spec = game, spec
        self._shape = (*spec.frames.sides, 3)
        seen, taken = env.observation_space, env.action_space
        if not isinstance(seen, gymnasium.spaces.Box) or seen.shape != self._shape or seen.dtype != np.uint8:
            raise self._mistake(f"observation_space is {seen}, where its family says {self._frames()}")
        if ActionSpec.of_space(taken) != replace(spec.actions, names=()):
            raise self._mistake(f"action_space is {taken}, where its family says {spec.actions.space()}")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """See the environment."""
        frame, info = self.env.reset(seed=seed, options=options)
        return self._checked(frame, "reset"), info

    def step(self, action: Any) -> tuple[Frame, Any, bool, bool, dict[str, Any]]:
        """See the environment."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        if self._spec.rewards and not math.isfinite(reward):
            raise self._mistake(f"step gave the reward {reward}, where a finite number was expected (rewards=False: the game has none)")
        if terminated and not self._spec.ends:
            raise self._mistake("step ended an episode, where its family says ends=False (a limit of steps is a truncation)")
        return self._checked(frame, "step"), reward, terminated, truncated, info

    def _checked(self, frame: Frame, source: str) -> Frame:
        shape, dtype = getattr(frame, "shape", None), getattr(frame, "dtype", type(frame).__name__)
        if shape != self._shape or dtype != np.uint8:
            raise self._mistake(f"{source} gave an observation of shape {shape} and type {dtype}, where its family says {self._frames()}")
        return frame

    def _frames(self) -> str:
        return f"{self._shape} uint8"

    def _mistake(self, what: str) -> UserError:
        return UserError(f"game={self._game}: its environment does not keep to its EnvFamily: {what}; correct one of them")
