"""Heads of rewards and ends on the features of another network (the joint trunk), and the sum of its loss and theirs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.config import HeadsConfig
from diamond_bench.models.blocks import group_norm
from diamond_bench.models.lstm import init_lstm
from diamond_bench.models.shape import NUM_ENDS, NUM_REWARDS

Memory = tuple[Tensor, ...]
"""The state of the heads' LSTM, (b, memory) each. Empty without an LSTM."""


class OutcomeHeads(nn.Module):
    """A hidden layer over all features, an LSTM if the config has a memory, and a linear map to the logits of rewards and ends."""

    def __init__(self, config: HeadsConfig, channels: int, pixels: int) -> None:
        """`channels` and `pixels`: of the features."""
        super().__init__()
        self.config = config
        self.norm = group_norm(channels)
        self.hidden = nn.Linear(channels * pixels, config.width)
        self.lstm = nn.LSTMCell(config.width, config.memory) if config.memory else None
        self.out = nn.Linear(config.memory or config.width, NUM_REWARDS + NUM_ENDS)
        self.log_scales = nn.Parameter(torch.zeros(3)) if config.weights == "harmonised" else None
        if self.lstm is not None:
            init_lstm(self.lstm)

    def start(self, rows: int, like: Tensor) -> Memory:
        """The memory before the first step, on the device of `like`."""
        return tuple(like.new_zeros((rows, self.config.memory)) for _ in range(2)) if self.lstm is not None else ()

    def forward(self, features: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        """Logits of rewards (b, 3) and of ends (b, 2) of one step, and the memory after it.

        Args:
            features: (b, channels, h, w).
            memory: after the step before.
        """
        x = F.silu(self.hidden(F.silu(self.norm(features.float())).flatten(1)))
        if self.lstm is not None:
            memory = self.lstm(x, (memory[0], memory[1]))
            x = memory[0]
        rewards, ends = self.out(x).split((NUM_REWARDS, NUM_ENDS), dim=1)
        return rewards, ends, memory

    def joint_loss(self, denoising: Tensor, rewards: Tensor, ends: Tensor) -> Tensor:
        """The sum of three losses, with the weights of the config."""
        if self.log_scales is not None:
            return harmonised(torch.stack((denoising, rewards, ends)), self.log_scales).sum()
        return denoising + self.config.reward_weight * rewards + self.config.end_weight * ends


def harmonised(losses: Tensor, log_scales: Tensor) -> Tensor:
    """L / s + log(1 + s) for each loss L and its scale s > 0, in the shape of both (Ma et al. 2024, HarmonyDream).

    At the minimum over s, s^2 / (1 + s) = L. So a small loss gets a large weight 1 / s, but never one that grows without bound faster than
    1 / sqrt(L).
    """
    scales = log_scales.exp()
    return losses / scales + scales.log1p()


def outcome_losses(rewards: Tensor, ends: Tensor, true_rewards: Tensor, true_ends: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropies of the signs of rewards and of ends, over the counted steps. They are 0 if there are none.

    Args:
        rewards: logits, (n, 3).
        ends: logits, (n, 2).
        true_rewards: raw, (n,).
        true_ends: (n,) bool.
        counted: (n,) bool.
    """
    count = counted.sum().clamp(min=1)
    signs, over = true_rewards.sign().long() + 1, true_ends.long()
    one, two = (
        (F.cross_entropy(logits, true, reduction="none") * counted).sum() / count for logits, true in ((rewards, signs), (ends, over))
    )
    return one, two
