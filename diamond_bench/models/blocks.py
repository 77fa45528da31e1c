"""Building blocks of the U-Net (method section 1): group norms, residual blocks, attention, resampling.

Tensors are (b, c, h, w), and `cond` is the condition vector (b, cond_channels). All blocks run in channels_last and under autocast.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.models.shape import NORM_EPS, POSITION_CHANNELS, num_groups, num_heads


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with learned gain and bias."""
    return nn.GroupNorm(num_groups(channels), channels, eps=NORM_EPS)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose gain and bias are a linear map of the condition vector: norm(x) * (1 + scale) + shift."""

    def __init__(self, channels: int, cond_channels: int) -> None:
        super().__init__()
        self.groups = num_groups(channels)
        self.scale_shift = nn.Linear(cond_channels, 2 * channels)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        scale, shift = self.scale_shift(cond)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, F.group_norm(x, self.groups, eps=NORM_EPS), 1 + scale)


class SelfAttention(nn.Module):
    """Multi-head attention over pixels. Its output is added to the *normalised* input, and starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = num_heads(channels)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = self.norm(x)
        # the channels are all queries, all keys, all values, each ordered by head: (b, 3, heads, pixels, c / heads)
        q, k, v = self.qkv(x).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        added: Tensor = self.out(y.transpose(2, 3).reshape(b, c, h, w))
        return x + added


class Attended(NamedTuple):
    """The tokens that the residual blocks of a level attend to."""

    tokens: Tensor
    """(b, n, width)."""
    positions: Tensor
    """`pixel_positions` of the level's own pixels."""


def pixel_positions(h: int, w: int, like: Tensor) -> Tensor:
    """Positions of pixels: cosines and sines of their row and column as fractions of the frame's sides, in octaves from half a period per
    frame. (1, POSITION_CHANNELS, h, w), with the type and device of `like`."""
    frequencies = math.pi * 2 ** torch.arange(POSITION_CHANNELS // 4, device=like.device)

    def features(size: int) -> Tensor:
        angles = (torch.arange(size, device=like.device) + 0.5) / size * frequencies[:, None]
        return torch.cat((angles.cos(), angles.sin()))

    rows, columns = features(h)[:, :, None].expand(-1, h, w), features(w)[:, None, :].expand(-1, h, w)
    return torch.cat((rows, columns))[None].to(like.dtype)


class CrossAttention(nn.Module):
    """Multi-head attention from pixels to tokens. Its output is added to the input, and starts at zero."""

    def __init__(self, channels: int, history: int) -> None:
        super().__init__()
        self.heads = num_heads(channels)
        self.norm = group_norm(channels)
        self.query = nn.Conv2d(channels + POSITION_CHANNELS, channels, 1)
        self.key_value = nn.Linear(history, 2 * channels)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, attended: Attended) -> Tensor:
        b, c, h, w = x.shape
        placed = torch.cat((self.norm(x), attended.positions.expand(b, -1, -1, -1)), dim=1)
        q = self.query(placed).reshape(b, self.heads, c // self.heads, h * w).transpose(2, 3)
        k, v = self.key_value(attended.tokens).unflatten(2, (2, self.heads, c // self.heads)).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(q, k, v)
        added: Tensor = self.out(y.transpose(2, 3).reshape(b, c, h, w))
        return x + added


class ResidualBlock(nn.Module):
    """Twice adaptive norm, SiLU and 3x3 convolution, plus the input (projected if widths differ). The second convolution starts at zero.

    Then self-attention, and cross-attention to tokens of width `history`, if the block has them.
    """

    def __init__(self, in_channels: int, out_channels: int, cond_channels: int, attention: bool, history: int = 0) -> None:
        super().__init__()
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        self.norm1 = AdaptiveGroupNorm(in_channels, cond_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = AdaptiveGroupNorm(out_channels, cond_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.attention = SelfAttention(out_channels) if attention else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        self.cross_attention = CrossAttention(out_channels, history) if history else None

    def forward(self, x: Tensor, cond: Tensor, attended: Attended | None = None) -> Tensor:
        y: Tensor = self.conv1(F.silu(self.norm1(x, cond)))
        y = self.conv2(F.silu(self.norm2(y, cond)))
        y = self.attention(self.skip(x) + y)
        if self.cross_attention is not None:
            y = self.cross_attention(y, attended)
        return y


class Downsample(nn.Module):
    """Halves height and width: 3x3 convolution of stride 2, orthogonal at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        nn.init.orthogonal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
