"""The U-Net (method section 1): levels of residual blocks down, a middle with attention, and levels up with skip connections."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.config import NetworkConfig
from diamond_bench.models.blocks import Attended, Downsample, ResidualBlock, Upsample, pixel_positions
from diamond_bench.models.shape import Block, down_blocks, middle_blocks, padded, up_blocks


def residual_blocks(blocks: Iterable[Block], cond_channels: int) -> nn.ModuleList:
    """Modules with these widths."""
    return nn.ModuleList(ResidualBlock(b.in_channels, b.out_channels, cond_channels, b.attention, b.history) for b in blocks)


def pad_to_levels(x: Tensor, network: NetworkConfig) -> Tensor:
    """Pads with zeros on the right and at the bottom, so that every level halves exactly."""
    h, w = x.shape[-2:]
    right, bottom = padded(w, network) - w, padded(h, network) - h
    return F.pad(x, (0, right, 0, bottom)) if right or bottom else x  # padding by nothing would copy


class DownLevel(nn.Module):
    """Resampling (none at level 0), then residual blocks. Stores its input and every output for the way up."""

    def __init__(self, resample: nn.Module, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.resample = resample
        self.blocks = blocks

    def forward(self, x: Tensor, cond: Tensor, attended: Attended | None = None) -> list[Tensor]:
        stored = [self.resample(x)]
        for block in self.blocks:
            stored.append(block(stored[-1], cond, attended))
        return stored


class UpLevel(nn.Module):
    """Resampling (none at the deepest level), then residual blocks. Each receives one stored output of the way down, last stored first."""

    def __init__(self, resample: nn.Module, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.resample = resample
        self.blocks = blocks

    def forward(self, x: Tensor, stored: list[Tensor], cond: Tensor, attended: Attended | None) -> Tensor:
        x = self.resample(x)
        for block, skip in zip(self.blocks, reversed(stored), strict=True):
            x = block(torch.cat((x, skip), dim=1), cond, attended)
        return x


class UNet(nn.Module):
    """Maps (b, channels[0], h, w) to the same shape, for any h and w (padded with zeros on the right and at the bottom, then cropped).

    `history`: for each level, the width of the tokens that its residual blocks attend to, or 0. The middle belongs to the deepest level. ()
    means no tokens at all.
    """

    def __init__(self, network: NetworkConfig, history: Sequence[int] = ()) -> None:
        super().__init__()
        self.network = network
        levels = range(len(network.channels))
        widths = history or [0] * len(levels)
        self.down = nn.ModuleList(
            DownLevel(
                Downsample(network.channels[level - 1]) if level else nn.Identity(),
                residual_blocks(down_blocks(network, level, widths[level]), network.cond_channels),
            )
            for level in levels
        )
        self.middle = residual_blocks(middle_blocks(network, widths[-1]), network.cond_channels)
        # deepest level first, in the order of execution
        self.up = nn.ModuleList(
            UpLevel(
                Upsample(network.channels[level]) if level < levels[-1] else nn.Identity(),
                residual_blocks(up_blocks(network, level, widths[level]), network.cond_channels),
            )
            for level in reversed(levels)
        )

    def forward(self, x: Tensor, cond: Tensor, history: Sequence[Tensor | None] = ()) -> Tensor:
        return self.with_deepest(x, cond, history)[0]

    def with_deepest(self, x: Tensor, cond: Tensor, history: Sequence[Tensor | None] = ()) -> tuple[Tensor, Tensor]:
        """The output, and the features after the middle, (b, channels[-1], h', w') at the deepest level."""
        h, w = x.shape[-2:]
        x = pad_to_levels(x, self.network)
        sides = [(x.shape[-2] >> level, x.shape[-1] >> level) for level in range(len(self.down))]
        attended = [
            None if tokens is None else Attended(tokens, pixel_positions(*side, x))
            for side, tokens in zip(sides, history or [None] * len(sides), strict=True)
        ]
        stored = []
        for down, context in zip(self.down, attended, strict=True):
            stored.append(down(x, cond, context))
            x = stored[-1][-1]
        for block in self.middle:
            x = block(x, cond, attended[-1])
        deepest = x
        for up in self.up:
            x = up(x, stored.pop(), cond, attended.pop())
        return x[..., :h, :w], deepest
