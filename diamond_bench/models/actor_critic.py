"""Policy and value, given a frame and the memory of earlier frames (method section 1, golden README 3.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.config import ActorCriticConfig
from diamond_bench.models.blocks import group_norm
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.lstm import LstmState, init_lstm
from diamond_bench.models.precision import Precision, arithmetic
from diamond_bench.models.shape import IMAGE_CHANNELS, actor_critic_features, check_actor_critic
from diamond_bench.spaces import FrameSpec


@dataclass(frozen=True)
class PolicyOutput:
    """The actor-critic's output for one frame of each of b episodes."""

    logits: Tensor
    """(b, num_actions), of the policy."""
    value: Tensor
    """(b,), expected discounted return."""
    state: LstmState
    """LSTM state after this frame, each (b, lstm_dim)."""


class SmallStage(nn.Module):
    """Norm, SiLU, 3x3 convolution, plus the input (projected if widths differ), then 2x2 max-pooling if configured."""

    def __init__(self, in_channels: int, out_channels: int, down: bool) -> None:
        super().__init__()
        self.norm = group_norm(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        x = self.skip(x) + self.conv(F.silu(self.norm(x)))
        return F.max_pool2d(x, 2) if self.down else x


class ActorCriticEncoder(nn.Module):
    """Encodes frames (n, 3, h, w) to (n, channels[-1], h', w')."""

    def __init__(self, config: ActorCriticConfig) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(IMAGE_CHANNELS, config.channels[0], 3, padding=1)
        widths = (config.channels[0], *config.channels)
        self.stages = nn.ModuleList(SmallStage(widths[i], widths[i + 1], config.down[i]) for i in range(len(config.channels)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.stages:
            x = stage(x)
        return x


class ActorCritic(Compilable):
    """A small residual CNN, an LSTM cell, and two linear heads. The heads start at zero: a uniform policy and the value 0.

    Only the convolutions run in `precision`. The LSTM, its state and the heads are float32. Raises UserError if the shape cannot be built
    (`check_actor_critic`).
    """

    def __init__(self, config: ActorCriticConfig, num_actions: int, frame_size: int, precision: Precision = "fp32") -> None:
        super().__init__()
        check_actor_critic(config, frame_size)
        self.precision = precision
        self.encoder = ActorCriticEncoder(config)
        self.lstm = nn.LSTMCell(actor_critic_features(config, FrameSpec.square(frame_size)), config.lstm_dim)
        self.critic = nn.Linear(config.lstm_dim, 1)
        self.actor = nn.Linear(config.lstm_dim, num_actions)
        init_lstm(self.lstm)
        for head in (self.critic, self.actor):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    @property
    def core(self) -> nn.Module:
        """The convolutions."""
        return self.encoder

    def initial_state(self, b: int, device: torch.device | str | None = None) -> LstmState:
        """The state before the first frame: zeros, each (b, lstm_dim), by default on the device of the weights."""
        zeros = torch.zeros(b, self.lstm.hidden_size, device=device or self.lstm.weight_hh.device)
        return zeros, zeros.clone()

    def forward(self, frame: Tensor, state: LstmState) -> PolicyOutput:
        """One step.

        Args:
            frame: in [-1, 1], (b, 3, h, w).
            state: after the previous frame (or `initial_state`), each (b, lstm_dim).
        """
        h, c = self.lstm(self._features(frame), state)
        return PolicyOutput(self.actor(h), self.critic(h).squeeze(1), (h, c))

    def burn_in(self, frames: Tensor, state: LstmState, mask: Tensor | None = None) -> LstmState:
        """The state after (b, t, 3, h, w) more frames, oldest first, 0 where padded. The convolutions run once over all of them. `mask`
        (b, t), false where padded, is for a `ViewingPolicy`."""
        for features in self._features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).unbind(1):
            state = self.lstm(features, state)
        return state

    def _features(self, frames: Tensor) -> Tensor:
        with arithmetic(frames.device.type, self.precision):
            return self.run_core(frames).float().flatten(1)


@dataclass(frozen=True)
class ViewingPolicy:
    """An actor-critic that sees each frame through a function, such as the world model's tokenizer."""

    actor_critic: ActorCritic
    view: Callable[[Tensor], Tensor]
    """Frames (n, 3, h, w) in [-1, 1] -> what is seen of them."""

    def initial_state(self, b: int, device: torch.device | str | None = None) -> LstmState:
        """See `ActorCritic.initial_state`."""
        return self.actor_critic.initial_state(b, device)

    def __call__(self, frame: Tensor, state: LstmState) -> PolicyOutput:
        """See `ActorCritic.forward`."""
        output: PolicyOutput = self.actor_critic(self.view(frame), state)
        return output

    def burn_in(self, frames: Tensor, state: LstmState, mask: Tensor | None = None) -> LstmState:
        """See `ActorCritic.burn_in`. Padding stays 0."""
        seen = self.view(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return self.actor_critic.burn_in(seen if mask is None else seen * mask[:, :, None, None, None], state)


Policy = ActorCritic | ViewingPolicy
"""A policy for the real game."""
