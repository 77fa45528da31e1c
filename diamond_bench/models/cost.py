"""Costs of networks from plain numbers, without torch: parameters, and FLOP of a forward pass. A multiply-add counts as 2.

Convolutions, linear maps and attention count, as in torch's FLOP counter. Norms and activations do not. The file `x_cost.py` next to the
network `x.py` adds up its layers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from diamond_bench.config import ConditioningConfig, NetworkConfig
from diamond_bench.models.shape import POSITION_CHANNELS, Block, all_blocks, padded
from diamond_bench.spaces import ActionSpec, FrameSpec


@dataclass(frozen=True)
class Cost:
    """The cost of a network or a part of it."""

    parameters: int = 0
    """Trained numbers."""
    flops: float = 0.0
    """FLOP of one forward pass for one example."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.flops + other.flops)

    def repeated(self, times: int) -> "Cost":
        """The cost of using the same weights `times` times per example."""
        return Cost(self.parameters, times * self.flops)


def total(costs: Iterable[Cost]) -> Cost:
    """Their sum."""
    return sum(costs, Cost())


def convolution(channels: int, out: int, side: int, pixels: int) -> Cost:
    """A convolution with kernels of `side` x `side` and a bias. `pixels`: of its output."""
    return Cost((side**2 * channels + 1) * out, 2.0 * side**2 * channels * out * pixels)


def linear(width: int, out: int, rows: int = 1) -> Cost:
    """A linear map with a bias, applied to `rows` vectors."""
    return Cost((width + 1) * out, 2.0 * width * out * rows)


def embedding(rows: int, width: int) -> Cost:
    """A table. Reading from it costs nothing."""
    return Cost(rows * width)


def norm(channels: int) -> Cost:
    """A group norm's gain and bias."""
    return Cost(2 * channels)


def attention(queries: int, keys: int, width: int) -> Cost:
    """The products of queries with keys and of weights with values. `width`: of all heads together."""
    return Cost(0, 4.0 * queries * keys * width)


def lstm(width: int, state: int) -> Cost:
    """One step of an LSTM cell, which has two biases."""
    return Cost(4 * state * (width + state + 2), 2.0 * 4 * state * (width + state))


def residual_block(block: Block, cond_channels: int, pixels: int, tokens: int = 0) -> Cost:
    """`blocks.ResidualBlock` on `pixels` of a frame. `tokens`: those of its cross-attention, if it has one."""
    a, b = block.in_channels, block.out_channels
    parts = [linear(cond_channels, 2 * a), linear(cond_channels, 2 * b), convolution(a, b, 3, pixels), convolution(b, b, 3, pixels)]
    if a != b:
        parts.append(convolution(a, b, 1, pixels))
    if block.attention:
        parts += [norm(b), convolution(b, 3 * b, 1, pixels), convolution(b, b, 1, pixels), attention(pixels, pixels, b)]
    if block.history:
        queries = convolution(b + POSITION_CHANNELS, b, 1, pixels) + convolution(b, b, 1, pixels)
        parts += [norm(b), queries, linear(block.history, 2 * b, tokens), attention(pixels, tokens, b)]
    return total(parts)


def level_pixels(network: NetworkConfig, frames: FrameSpec) -> list[int]:
    """Pixels of each level of a U-Net, finest first, after padding."""
    height, width = (padded(side, network) for side in frames.sides)
    return [(height >> level) * (width >> level) for level in range(len(network.channels))]


def unet(network: NetworkConfig, frames: FrameSpec, widths: Sequence[int] = (), tokens: Sequence[int] = ()) -> Cost:
    """`unet.UNet`. For each level, the width and the number of the tokens that it attends to, or 0. () means no tokens at all."""
    pixels = level_pixels(network, frames)
    tokens = tokens or [0] * len(pixels)
    blocks = (
        residual_block(block, network.cond_channels, pixels[level], tokens[level]) for level, block in all_blocks(network, tuple(widths))
    )
    # the downsampling into a level and the upsampling out of it are as wide as the level above
    resampling = (
        convolution(above, above, 3, pixels[level + side]) for level, above in enumerate(network.channels[:-1]) for side in (0, 1)
    )
    return total(blocks) + total(resampling)


@dataclass(frozen=True)
class ConditioningCost:
    """The cost of a registered conditioning and its inputs to the U-Net."""

    own: Cost = Cost()
    """Its own layers, for one example."""
    planes: int = 0
    """Channels that it stacks before the noisy frame."""
    widths: tuple[int, ...] = ()
    """For each level of the U-Net, the width of its tokens, or 0. () means no tokens at all."""
    tokens: tuple[int, ...] = ()
    """For each level, the number of its tokens."""


ConditioningCostFunction = Callable[[NetworkConfig, ConditioningConfig, ActionSpec, FrameSpec], ConditioningCost]
"""The function that the `cost` of a ConditioningOption names. The last argument is the size of the frames."""
