"""Rollouts of a policy with memory, in imagination or in the real game (method section 5, golden README 3.6)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.envs.copies import copy_frames
from diamond_bench.envs.play import Game, Scoreboard
from diamond_bench.envs.saves import load_env, save_env
from diamond_bench.imagination import categorical
from diamond_bench.models.actor_critic import ActorCritic
from diamond_bench.models.lstm import LstmState
from diamond_bench.training.actor_critic import Rollout


class TensorSteps(Protocol):
    """b games of tensors on one device. The step that ends a game also begins a new one. `ReservedSteps` is an example."""

    def prepare(self, num_steps: int) -> None:
        """Called before `num_steps` steps are taken."""
        ...

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Frames, rewards (b,), terminations and truncations (b,) bool, infos.

        infos["final_obs"] (b, 3, h, w): the final frame of each episode that ended. infos["burn_in"] (b, t, 3, h, w), if present: the
        frames before the first one of each new episode.
        """
        ...


class TensorEnv(TensorSteps, Protocol):
    """A vector environment of tensors, such as `ImaginationEnv`."""

    @property
    def num_envs(self) -> int:
        """b."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Frames (b, 3, h, w) in [-1, 1], infos."""
        ...


@dataclass(frozen=True)
class Carry:
    """The position from which the next rollout continues."""

    frames: Tensor
    """(b, 3, h, w), the frames before the next action."""
    state: LstmState
    """The policy's memory, each (b, lstm_dim)."""


def start(policy: ActorCritic, env: TensorEnv, seed: int | None = None) -> Carry:
    """Resets the environment. The policy's memory is empty: the authors burn nothing in at the very first reset."""
    frames, _ = env.reset(seed=seed)
    return Carry(frames, policy.initial_state(env.num_envs, frames.device))


def collect_rollout(
    policy: ActorCritic,
    env: TensorSteps,
    carry: Carry,
    num_steps: int,
    draw: Callable[[Tensor], Tensor],
    all_rows: bool | None = None,
) -> tuple[Rollout, Carry]:
    """Plays `num_steps` steps. Gradients flow through the policy's memory back to the rollout's start, and never into the environment.

    The bootstrap of a step is the value of the frame that it led to, with the memory after the previous frame. When an episode ends, the
    policy's memory is reset and then burnt in on the next episode's earlier frames, padding included and with gradient. `draw` maps logits
    (b, a) to actions (b,) int64 (`sampled`). With `all_rows`, computations for finished episodes run on all rows and are masked, so that
    nothing waits for the device (unless the environment does). This is the default on a GPU only.
    """
    env.prepare(num_steps)
    frames, state = carry.frames, _detached(carry.state)
    columns: list[tuple[Tensor, ...]] = []
    final_values: list[Tensor] = []
    for _ in range(num_steps):
        output = policy(frames, state)
        actions = draw(output.logits.detach())
        frames, rewards, ends, truncations, infos = env.step(actions)
        columns.append((output.logits, output.value, actions, rewards, ends, truncations))
        state, values = reset_memory(policy, output.state, ends | truncations, infos, all_rows)
        final_values.append(values)
    with torch.no_grad():
        value_after = policy(frames, state).value
    logits, values, acted, rewards, ends, truncations = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
    reached = torch.cat((values[:, 1:].detach(), value_after[:, None]), dim=1)
    bootstraps = torch.where(ends | truncations, torch.stack(final_values, dim=1), reached)
    return Rollout(logits, values, acted, rewards, ends, truncations, bootstraps), Carry(frames, _detached(state))


def reset_memory(
    policy: ActorCritic, state: LstmState, done: Tensor, infos: dict[str, Any], all_rows: bool | None
) -> tuple[LstmState, Tensor]:
    """The memory for the next step, and the values of the final frames of episodes that ended, (b,), 0 elsewhere."""
    values = torch.zeros(len(done), device=done.device)
    masked = done.is_cuda if all_rows is None else all_rows
    rows = torch.arange(len(done), device=done.device) if masked else done.nonzero().squeeze(1)
    if len(rows) == 0:
        return state, values
    with torch.no_grad():
        h, c = state
        values = values.index_copy(0, rows, policy(infos["final_obs"][rows], (h[rows], c[rows])).value)
    fresh = policy.initial_state(len(rows), done.device)
    if "burn_in" in infos:
        fresh = policy.burn_in(infos["burn_in"][rows], fresh)
    h, c = (torch.where(done[:, None], old.index_copy(0, rows, new), old) for old, new in zip(state, fresh, strict=True))
    return (h, c), values


def _detached(state: LstmState) -> LstmState:
    h, c = state
    return h.detach(), c.detach()


def sampled(generator: torch.Generator, temperature: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Draws actions from softmax(logits / temperature) with a generator on their device, without waiting for it."""
    return lambda logits: categorical(logits / temperature, generator)


class RealEnv:
    """A real vector environment (AutoresetMode.SAME_STEP, frames (b, h, w, 3) uint8) as a `TensorEnv`, for model-free training.

    Its environments are wrapped in `CopiedFrames`.
    """

    def __init__(self, env: SyncVectorEnv, device: torch.device | str = "cpu") -> None:
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError(f"the environment must have AutoresetMode.SAME_STEP, not {env.metadata.get('autoreset_mode')}")
        copy_frames(env)
        self.num_envs: int = env.num_envs
        self.real_steps = 0
        """Environment steps taken, over all environments."""
        self._env, self._device = env, torch.device(device)
        self._scores = Scoreboard(env.num_envs)
        self._games: list[Game] = []

    def prepare(self, num_steps: int) -> None:
        """Does nothing."""

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]:
        """See `TensorEnv.reset`."""
        frames, _ = self._env.reset(seed=seed)
        self._scores = Scoreboard(self.num_envs)
        return self._frames(frames), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """See `TensorEnv.step`. Rewards are raw."""
        frames, rewards, ends, truncations, infos = self._env.step(actions.cpu().numpy())
        self.real_steps += self.num_envs
        done = ends | truncations
        self._games += self._scores.count(rewards, done, infos)
        finals = frames.copy()
        for i in np.flatnonzero(done):
            finals[i] = infos["final_obs"][i]
        columns = (torch.from_numpy(column).to(self._device) for column in (rewards.astype(np.float32), ends, truncations))
        reward, end, truncation = columns
        return self._frames(frames), reward, end, truncation, {"final_obs": self._frames(finals)}

    def finished_games(self) -> tuple[Game, ...]:
        """The games that ended since the last call."""
        games, self._games = tuple(self._games), []
        return games

    def save(self) -> dict[str, Any]:
        """The complete state as plain data. The frames before the next action are in the `Carry`."""
        return {"real_steps": self.real_steps, "scores": self._scores.save(), "envs": [save_env(env) for env in self._env.envs]}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continues from `save` without a reset. Raises ValueError for another number of environments."""
        if len(saved["envs"]) != self.num_envs:
            raise ValueError(f"saved with {len(saved['envs'])} environments, restored with {self.num_envs}")
        self.real_steps = saved["real_steps"]
        self._scores.restore(saved["scores"])
        for env, state in zip(self._env.envs, saved["envs"], strict=True):
            load_env(env, state)

    def _frames(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        return to_frames(frames, self._device)


def to_frames(frames: npt.NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """Converts (b, h, w, 3) bytes to (b, 3, h, w) float32 in [-1, 1] on the device."""
    return from_bytes(torch.from_numpy(frames).to(device).permute(0, 3, 1, 2))
