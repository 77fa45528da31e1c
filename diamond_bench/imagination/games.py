"""Imagined games for libraries that train in gymnasium's vector environments: uint8 frames as the game's own, checked calls, rendering."""

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded, UnsupportedMode
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diamond_bench.diffusion.quantization import to_bytes
from diamond_bench.errors import UserError
from diamond_bench.imagination.env import ImaginationEnv
from diamond_bench.models.threads import torch_threads
from diamond_bench.spaces import ActionSpec

Frames = NDArray[np.uint8]
Reward = Callable[[Frames, NDArray[Any], Frames], ArrayLike]
"""reward(before, actions, after) -> (b,) numbers. Frames (b, h, w, 3) uint8: those that the actions answered, and those they led to."""
RENDER_MODES = ("rgb_array",)
_MAX_SEED = 2**63 - 2


class ImaginedGames(gymnasium.vector.VectorEnv[Frames, Any, NDArray[Any]]):
    """b games imagined side by side, with the frames and actions of the real game; `api.imagination_env` opens one.

    Observations are (b, h, w, 3) uint8, rewards (b,) float32, terminations and truncations (b,) bool. An episode is truncated after
    `horizon` steps. Where one ends, the same step begins another (AutoresetMode.SAME_STEP), and `infos["final_obs"]`, (b, h, w, 3) uint8,
    is the frame that each action led to; `infos["_final_obs"]`, (b,) bool, says which episodes ended.

    A call before the first reset raises gymnasium.error.ResetNeeded, one after `close` raises ClosedEnvironmentError.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": list(RENDER_MODES),
        "render_fps": 15,
    }

    def __init__(
        self,
        env: ImaginationEnv,
        actions: ActionSpec,
        reward: Reward | None = None,
        threads: int = 1,
        render_mode: str | None = None,
        spec: EnvSpec | None = None,
    ) -> None:
        """`env`: gives tensors. `actions`: those of its world. `reward`: replaces its rewards. `threads`: CPU threads of a call."""
        self.num_envs, self.render_mode, self.spec = env.num_envs, render_mode, spec
        _, *sides = env.single_observation_space.shape or ()
        self.single_observation_space = spaces.Box(0, 255, (*sides, 3), np.uint8)
        self.single_action_space = env.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.threads = threads
        """CPU threads of a call; torch has its own number again afterwards."""
        self._env: ImaginationEnv | None = env
        self._actions, self._reward = actions, reward
        self._frames: Frames | None = None
        """What is shown, (b, h, w, 3); None before the first reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Begins all episodes from fresh frames of real play. Returns what they show and empty infos.

        With a seed (0 to 2**63 - 2) everything after the call is determined by it and the actions. There are no options: any raises
        gymnasium.error.Error.
        """
        env = self._open("reset")
        if options:
            raise gymnasium.error.Error(f"options={options}: expected none, since imagined games have no options")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= _MAX_SEED):
            raise gymnasium.error.Error(f"seed={seed!r}: expected one whole number from 0 to 2**63 - 2 for all games")
        seed = None if seed is None else int(seed)
        super().reset(seed=seed)
        with torch_threads(self.threads):
            shown, _ = env.reset(seed=seed)
        self._frames = _as_bytes(shown)
        return self._frames.copy(), {}

    def step(self, actions: ArrayLike) -> tuple[Frames, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """One step of every game; see the class for what comes back.

        `actions`: (b,) whole numbers, or (b, k) of a game with several columns. Raises gymnasium.error.InvalidAction, which names the
        first wrong action, for another shape or type or an action that the game does not have; no game moves then.
        """
        env, before = self._open("step"), self._shown("step")
        taken = self._checked(np.asarray(actions))
        with torch_threads(self.threads):
            shown, rewards, terminations, truncations, infos = env.step(torch.from_numpy(taken))
            after = _as_bytes(infos["final_obs"])
            self._frames = _as_bytes(shown)
        given = rewards.cpu().numpy() if self._reward is None else self._own_reward(self._reward, before, taken, after)
        ended, cut = terminations.cpu().numpy(), truncations.cpu().numpy()
        return self._frames.copy(), given, ended, cut, {"final_obs": after, "_final_obs": ended | cut}

    def render(self) -> tuple[Frames, ...]:
        """What each game shows now, b frames (h, w, 3) uint8. Raises gymnasium.error.UnsupportedMode without render_mode="rgb_array"."""
        self._open("render")
        if self.render_mode is None:
            raise UnsupportedMode('render: open the environment with render_mode="rgb_array"')
        return tuple(self._shown("render").copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Lets go of models and frames; `close` calls it once."""
        self._env = self._frames = None

    def _open(self, call: str) -> ImaginationEnv:
        if self._env is None:
            raise ClosedEnvironmentError(f"{call}: the environment was closed; open another one")
        return self._env

    def _shown(self, call: str) -> Frames:
        if self._frames is None:
            raise ResetNeeded(f"{call}: call reset first")
        return self._frames

    def _checked(self, taken: NDArray[Any]) -> NDArray[Any]:
        spec, shape = self._actions, (self.num_envs, *self._actions.shape)
        if taken.shape != shape or taken.dtype.kind not in spec.dtype_kinds:
            what = "numbers" if spec.low else "whole numbers"
            raise InvalidAction(f"actions: expected {what} of shape {shape}, one row per game; got {taken.dtype} of shape {taken.shape}")
        low, high = spec.bounds
        wrong = ~((taken >= low) & (taken <= high)).reshape(self.num_envs, -1).all(axis=1)
        if wrong.any():
            first = int(wrong.argmax())
            ranges = ", ".join(f"{least:g} to {most:g}" for least, most in zip(low, high, strict=True))
            raise InvalidAction(f"actions: game {first} was given {taken[first]}; expected {ranges}")
        return taken.astype(spec.dtype)

    def _own_reward(self, reward: Reward, before: Frames, taken: NDArray[Any], after: Frames) -> NDArray[Any]:
        given = np.asarray(reward(before, taken, after))
        if given.shape != (self.num_envs,) or given.dtype.kind not in "biuf" or not np.isfinite(given).all():
            raise UserError(f"reward: expected {self.num_envs} finite numbers, one per game; got {given.dtype} of shape {given.shape}")
        return given.astype(np.float32)


def _as_bytes(frames: Tensor) -> Frames:
    """(b, h, w, 3) uint8 of frames (b, 3, h, w) in [-1, 1]."""
    return to_bytes(frames).permute(0, 2, 3, 1).contiguous().cpu().numpy()
