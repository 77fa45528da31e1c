"""Environments whose episode is a function of its seed and its actions, so that both together are its state."""

import json
from abc import abstractmethod
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from diamond_bench.envs.lives import Frame

Outcome = tuple[Frame, float, bool, bool, dict[str, Any]]


class ReplayedEnv(gymnasium.Env[Frame, Any]):
    """Saves the seed of its episode and the actions since. Loading plays them again, which takes as long as playing without pictures.

    A subclass defines `begin` and `advance`, and sets the spaces and `max_steps`.
    """

    max_steps: int
    """Steps after which an episode is truncated."""
    _seed = 0
    """Seed of the present episode."""
    _actions: list[npt.NDArray[Any]]
    _begun = False

    @abstractmethod
    def begin(self, seed: int) -> tuple[Frame, dict[str, Any]]:
        """Starts the episode with this seed, from 0 to 2^31 - 1. Returns its first frame and info."""

    @abstractmethod
    def advance(self, action: npt.NDArray[Any], shown: bool) -> tuple[Frame, float, bool, dict[str, Any]]:
        """One step: frame, reward, whether the episode ended, and info. If not `shown`, the frame and the info are not used."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Starts an episode. Without a seed the draws continue."""
        super().reset(seed=seed)
        return self._restart(int(self.np_random.integers(2**31)))

    def step(self, action: Any) -> Outcome:
        """One step. A limit of steps truncates the episode."""
        taken = np.array(action)
        frame, reward, ended, info = self.advance(taken, shown=True)
        self._actions.append(taken)
        return frame, reward, ended, not ended and len(self._actions) >= self.max_steps, info

    def save_state(self) -> dict[str, Any]:
        """Plain data for `load_state`. Its size does not depend on the number of steps."""
        import torch

        narrow = np.uint8 if np.issubdtype(self.action_space.dtype, np.integer) else np.float32
        actions = np.zeros((self.max_steps, *self.action_space.shape), narrow)  # type: ignore[misc]
        if self._actions:
            actions[: len(self._actions)] = self._actions
        return {
            "seed": self._seed,
            "steps": len(self._actions),
            "actions": torch.from_numpy(actions),
            "random": json.dumps(self.np_random.bit_generator.state),
        }

    def load_state(self, saved: dict[str, Any]) -> None:
        """Continues exactly from `save_state`."""
        actions = saved["actions"].numpy()[: saved["steps"]].astype(self.action_space.dtype)
        known = len(self._actions) if self._begun and self._seed == saved["seed"] else -1
        if known < 0 or known > len(actions) or not np.array_equal(np.array(self._actions).reshape(actions[:known].shape), actions[:known]):
            self._restart(saved["seed"])
            known = 0
        for at in range(known, len(actions)):
            self.advance(actions[at], shown=at == len(actions) - 1)
            self._actions.append(actions[at])
        self.np_random.bit_generator.state = json.loads(saved["random"])

    def _restart(self, seed: int) -> tuple[Frame, dict[str, Any]]:
        self._seed, self._actions, self._begun = seed, [], True
        return self.begin(seed)
