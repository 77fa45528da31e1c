"""The effects of actions in a game that can save its state: every action is taken from the same states."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diamond_bench.config import EnvConfig
from diamond_bench.envs.copies import CopiedFrames
from diamond_bench.envs.games import make_env
from diamond_bench.envs.policies import random_action
from diamond_bench.envs.saves import load_env, save_env
from diamond_bench.spaces import ActionSpec

_EPISODES, _STEPS, _EVERY = 8, 64, 4
"""Episodes of random play, their steps, and the steps between two states."""
_DRAWN = 4
"""Actions taken from each state if the actions are not Discrete."""


@dataclass(frozen=True)
class Effects:
    """Real frames before and after actions that do not depend on the state."""

    before: NDArray[np.uint8]
    """(m, 3, h, w), the states' frames."""
    actions: NDArray[np.generic]
    """(m, a, ...), the actions taken from each state: every Discrete action in order, else random ones."""
    after: NDArray[np.uint8]
    """(m, a, 3, h, w)."""

    def classes(self) -> tuple[int, ...]:
        """For Discrete actions, the class of each. Two actions are in one class if they lead to equal frames from all states."""
        found: dict[bytes, int] = {}
        return tuple(found.setdefault(self.after[:, i].tobytes(), len(found)) for i in range(self.after.shape[1]))


def action_effects(game: str, config: EnvConfig, spec: ActionSpec, seed: int) -> Effects:
    """Plays at random, and takes actions from every fourth state. The game draws the same random numbers after each of them."""
    env, rng = CopiedFrames(make_env(game, config)), np.random.default_rng((seed, 11))
    before, taken, after = [], [], []
    for _ in range(_EPISODES):
        frame, _ = env.reset(seed=int(rng.integers(2**31)))
        for step in range(_STEPS):
            if step % _EVERY == 0:
                saved = save_env(env)
                chosen = range(spec.sizes[0]) if not spec.trailing else [random_action(spec, rng) for _ in range(_DRAWN)]
                before.append(frame)
                taken.append(np.array(chosen))
                after.append([_after(env, saved, action) for action in chosen])
                load_env(env, saved)
            frame, _, terminated, truncated, _ = env.step(random_action(spec, rng))
            if terminated or truncated:
                break
    env.close()
    frames = np.stack(before), np.array(after)
    return Effects(np.moveaxis(frames[0], -1, -3), np.stack(taken), np.ascontiguousarray(np.moveaxis(frames[1], -1, -3)))


def _after(env: CopiedFrames, saved: dict[str, object], action: object) -> NDArray[np.uint8]:
    load_env(env, saved)
    return env.step(action)[0]  # type: ignore[arg-type]
