"""Policies that collect static data: uniformly random, scripted, and with a share of random actions. Without torch.

A policy is created for each episode. It is called once per step with the environment's memory (`info["ram"]`, or None) and the previous
action (with epsilon, not always its own), and returns an action.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_bench.spaces import ActionSpec

Ram = npt.NDArray[np.uint8]
Action = Any
"""An int for a Discrete space, else an array (k,)."""
Policy = Callable[[Any, Action], Action]
"""(memory, action actually played in the previous step, at first zeros) -> action."""


def random_action(actions: ActionSpec, rng: np.random.Generator) -> Action:
    """An action drawn uniformly."""
    if actions.kind == "Discrete":
        return int(rng.integers(actions.sizes[0]))
    if actions.kind == "MultiDiscrete":
        return rng.integers(actions.sizes)
    return rng.uniform(actions.low, actions.high).astype(np.float32)


def random_policy(actions: ActionSpec, rng: np.random.Generator) -> Policy:
    """A policy that draws each action uniformly."""
    return lambda ram, last_action: random_action(actions, rng)


class EpsilonGreedy:
    """A policy whose actions are replaced by uniformly random ones, with probability epsilon, and always in the first steps."""

    def __init__(self, policy: Policy, epsilon: float, random_start: int, actions: ActionSpec, rng: np.random.Generator) -> None:
        """`random_start`: number of random steps at the start."""
        self._policy, self._epsilon, self._random_left = policy, epsilon, random_start
        self._actions, self._rng = actions, rng
        self._last: Action = 0 if actions.kind == "Discrete" else np.zeros(actions.shape, actions.dtype)

    def __call__(self, ram: Ram | None) -> Action:
        """The action to play. The policy receives every step, also those with random actions."""
        action = self._policy(ram, self._last)
        coin, other = self._rng.random(), random_action(self._actions, self._rng)
        at_random = self._random_left > 0 or coin < self._epsilon
        self._random_left -= 1
        self._last = other if at_random else action
        return self._last
