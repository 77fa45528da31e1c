"""The U-Net (method section 1): levels of residual blocks down, a middle with attention, and up again with skips."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.config import NetworkConfig
from diamond_bench.models.blocks import Downsample, ResidualBlock, Upsample
from diamond_bench.models.shape import Block, down_blocks, middle_blocks, padded, up_blocks


def residual_blocks(blocks: Iterable[Block], cond_channels: int) -> nn.ModuleList:
    """The modules of these widths."""
    return nn.ModuleList(ResidualBlock(b.in_channels, b.out_channels, cond_channels, b.attention) for b in blocks)


class DownLevel(nn.Module):
    """Resampling (none at level 0), then residual blocks; keeps its input and every output for the way up."""

    def __init__(self, resample: nn.Module, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.resample = resample
        self.blocks = blocks

    def forward(self, x: Tensor, cond: Tensor) -> list[Tensor]:
        stored = [self.resample(x)]
        for block in self.blocks:
            stored.append(block(stored[-1], cond))
        return stored


class UpLevel(nn.Module):
    """Resampling (none at the deepest level), then residual blocks, each fed one stored output of the way down, last stored first."""

    def __init__(self, resample: nn.Module, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.resample = resample
        self.blocks = blocks

    def forward(self, x: Tensor, stored: list[Tensor], cond: Tensor) -> Tensor:
        x = self.resample(x)
        for block, skip in zip(self.blocks, reversed(stored), strict=True):
            x = block(torch.cat((x, skip), dim=1), cond)
        return x


class UNet(nn.Module):
    """Maps (b, channels[0], h, w) to the same shape, for any h and w (padded with zeros right and bottom, cropped back)."""

    def __init__(self, network: NetworkConfig) -> None:
        super().__init__()
        self.network = network
        levels = range(len(network.channels))
        self.down = nn.ModuleList(
            DownLevel(
                Downsample(network.channels[level - 1]) if level else nn.Identity(),
                residual_blocks(down_blocks(network, level), network.cond_channels),
            )
            for level in levels
        )
        self.middle = residual_blocks(middle_blocks(network), network.cond_channels)
        # deepest level first, in the order they run
        self.up = nn.ModuleList(
            UpLevel(
                Upsample(network.channels[level]) if level < levels[-1] else nn.Identity(),
                residual_blocks(up_blocks(network, level), network.cond_channels),
            )
            for level in reversed(levels)
        )

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        right, bottom = padded(w, self.network) - w, padded(h, self.network) - h
        if right or bottom:  # padding by nothing would copy
            x = F.pad(x, (0, right, 0, bottom))
        stored = []
        for down in self.down:
            stored.append(down(x, cond))
            x = stored[-1][-1]
        for block in self.middle:
            x = block(x, cond)
        for up in self.up:
            x = up(x, stored.pop(), cond)
        return x[..., :h, :w]
