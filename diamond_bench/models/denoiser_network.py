"""The trainable part of the denoiser: a U-Net told the noise level, the past frames and the actions."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.config import NetworkConfig
from diamond_bench.models.blocks import group_norm
from diamond_bench.models.shape import IMAGE_CHANNELS, check_network
from diamond_bench.models.unet import UNet


class FourierFeatures(nn.Module):
    """Cosine then sine of 2 pi c w, for a fixed random w ~ N(0, 1) that is saved with the weights but not trained."""

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(1, channels // 2))

    def forward(self, c: Tensor) -> Tensor:
        """(b,) to (b, channels)."""
        angle = 2 * math.pi * c[:, None] * self.frequencies
        return torch.cat((angle.cos(), angle.sin()), dim=1)


class DenoiserNetwork(nn.Module):
    """F in the paper's equation 4: its output is a plain regression target of the objective.

    Raises UserError when the widths do not fit together (`check_network`).
    """

    def __init__(self, network: NetworkConfig, num_frames: int, num_actions: int, image_channels: int = IMAGE_CHANNELS) -> None:
        super().__init__()
        check_network(network, num_frames)
        width, cond_channels = network.channels[0], network.cond_channels
        self.noise_features = FourierFeatures(cond_channels)
        self.action_embedding = nn.Embedding(num_actions, cond_channels // num_frames)
        self.condition = nn.Sequential(nn.Linear(cond_channels, cond_channels), nn.SiLU(), nn.Linear(cond_channels, cond_channels))
        self.conv_in = nn.Conv2d((num_frames + 1) * image_channels, width, 3, padding=1)
        self.unet = UNet(network)
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, image_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """One forward pass.

        Args:
            x: the noisy frame as the objective scales it, (b, 3, h, w).
            c_noise: the noise level as the objective tells it, (b,).
            past: past frames as the objective scales them, stacked on channels, oldest first, (b, L * 3, h, w).
            actions: taken after each past frame, (b, L) int64.

        Returns:
            (b, 3, h, w), of the dtype of autocast where it is on.
        """
        embedded = self.action_embedding(actions).flatten(1)  # (b, cond_channels), oldest first
        cond = self.condition(self.noise_features(c_noise) + embedded)
        y = self.unet(self.conv_in(torch.cat((past, x), dim=1)), cond)
        return self.conv_out(F.silu(self.norm_out(y)))
