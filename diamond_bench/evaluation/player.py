"""Players of the real game: an agent's policy, and random actions."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.envs.lives import Frame
from diamond_bench.envs.play import State, draw_actions
from diamond_bench.envs.policies import Ram
from diamond_bench.models.actor_critic import Policy


class PolicyPlayer:
    """Plays with a policy (the protocol `envs.play.Player`), without gradient. Every step uses its current weights."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def initial_state(self, num_games: int) -> State:
        """Zeros, (num_games, lstm_dim) each."""
        return self._policy.initial_state(num_games)

    @torch.no_grad()
    def __call__(self, frames: npt.NDArray[np.uint8], state: State) -> tuple[Tensor, State]:
        """Logits (n, actions), and the state after frames (n, h, w, 3) uint8."""
        h, c = state
        on_device = torch.from_numpy(np.ascontiguousarray(frames)).to(h.device).permute(0, 3, 1, 2)
        output = self._policy(from_bytes(on_device), (h, c))
        return output.logits, output.state


class UniformPlayer:
    """Draws every action with equal probability (the protocol `envs.play.Player`)."""

    def __init__(self, num_actions: int) -> None:
        self._num_actions = num_actions

    def initial_state(self, num_games: int) -> State:
        """Nothing is remembered."""
        return ()

    def __call__(self, frames: npt.NDArray[np.uint8], state: State) -> tuple[Tensor, State]:
        """Equal logits (n, actions)."""
        return torch.zeros(len(frames), self._num_actions), state


class WatchingPolicy:
    """An agent that collects data (an `envs.policies.Policy`). It must see each frame before it is asked for an action."""

    def __init__(self, policy: Policy, rng: np.random.Generator) -> None:
        self._player, self._rng = PolicyPlayer(policy), rng
        self._state = self._player.initial_state(1)
        self._frame: Frame | None = None

    def see(self, frame: Frame) -> None:
        """Receives the frame to which the next action responds."""
        self._frame = frame

    def __call__(self, ram: Ram, last_action: int) -> int:
        """An action drawn from the policy. The console's memory is not used."""
        assert self._frame is not None, "asked for an action before it saw a frame"
        logits, self._state = self._player(self._frame[None], self._state)
        self._frame = None
        return int(draw_actions(logits, 1.0, self._rng)[0])
