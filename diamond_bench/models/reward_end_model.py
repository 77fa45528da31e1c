"""R: predicts the sign of the reward and whether the episode ended, from a frame, the action, and the next frame (method section 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diamond_bench.config import RewardEndConfig
from diamond_bench.models.blocks import Downsample, ResidualBlock
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.lstm import LstmState, init_lstm
from diamond_bench.models.precision import Precision, arithmetic
from diamond_bench.models.shape import (
    IMAGE_CHANNELS,
    NUM_ENDS,
    NUM_REWARDS,
    check_reward_end,
    reward_end_features,
    reward_end_stages,
)
from diamond_bench.spaces import FrameSpec


@dataclass(frozen=True)
class RewardEndOutput:
    """The model's output for t steps of b episodes."""

    reward_logits: Tensor
    """(b, t, 3) for the signs -1, 0, +1."""
    end_logits: Tensor
    """(b, t, 2) for no, yes."""
    state: LstmState
    """LSTM state after the last step, each (1, b, lstm_dim)."""


class Stage(nn.Module):
    """Halves the resolution (except in the first and the last stage), then residual blocks."""

    def __init__(self, resample: nn.Module, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.resample = resample
        self.blocks = blocks

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        x = self.resample(x)
        for block in self.blocks:
            x = block(x, cond)
        return x


class RewardEndEncoder(nn.Module):
    """Encodes pairs of frames stacked on channels, (n, 6, h, w), with conditions (n, cond_channels), to (n, channels[-1], h', w')."""

    def __init__(self, config: RewardEndConfig, image_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(2 * image_channels, config.channels[0], 3, padding=1)
        stages = reward_end_stages(config)
        self.stages = nn.ModuleList(
            Stage(
                Downsample(blocks[0].in_channels) if 0 < number < len(stages) - 1 else nn.Identity(),
                nn.ModuleList(ResidualBlock(b.in_channels, b.out_channels, config.cond_channels, b.attention) for b in blocks),
            )
            for number, blocks in enumerate(stages)
        )

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.stages:
            x = stage(x, cond)
        return x


class RewardEndModel(Compilable):
    """The action's embedding is the only condition of the convolutions. An LSTM over the steps keeps the memory of earlier steps.

    Only the convolutions run in `precision`. The LSTM, its state and the head are float32. Raises UserError if the widths do not fit
    together (`check_reward_end`).
    """

    def __init__(
        self,
        config: RewardEndConfig,
        num_actions: int,
        frame_size: int,
        image_channels: int = IMAGE_CHANNELS,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        check_reward_end(config, frame_size)
        self.precision = precision
        self.action_embedding = nn.Embedding(num_actions, config.cond_channels)
        self.encoder = RewardEndEncoder(config, image_channels)
        self.lstm = nn.LSTM(reward_end_features(config, FrameSpec.square(frame_size)), config.lstm_dim, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(config.lstm_dim, config.lstm_dim),
            nn.SiLU(),
            nn.Linear(config.lstm_dim, NUM_REWARDS + NUM_ENDS, bias=False),
        )
        init_lstm(self.lstm)

    @property
    def core(self) -> nn.Module:
        """The convolutions."""
        return self.encoder

    def forward(self, frames: Tensor, actions: Tensor, next_frames: Tensor, state: LstmState | None = None) -> RewardEndOutput:
        """Predicts rewards and ends of t consecutive steps of b episodes.

        Args:
            frames: in [-1, 1], (b, t, 3, h, w).
            actions: taken after each frame, (b, t) int64.
            next_frames: the frame after each action, (b, t, 3, h, w).
            state: of the LSTM before the first step, each (1, b, lstm_dim). None starts from zeros.
        """
        b, t = actions.shape
        with arithmetic(frames.device.type, self.precision):
            pairs = torch.cat((frames, next_frames), dim=2).flatten(0, 1)
            encoded = self.run_core(pairs, self.action_embedding(actions).flatten(0, 1))
        y, state = self.lstm(encoded.float().flatten(1).unflatten(0, (b, t)), state)  # in channel, row, column order
        logits = self.head(y)
        return RewardEndOutput(logits[..., :NUM_REWARDS], logits[..., NUM_REWARDS:], state)
