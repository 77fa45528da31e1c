"""The settings and the cost of frame_transformer.py, without torch."""

from dataclasses import dataclass
from typing import Literal

from diamond_bench.config.fields import setting
from diamond_bench.models.cost import Cost, attention, embedding, linear, total
from diamond_bench.models.shape import IMAGE_CHANNELS
from diamond_bench.spaces import ActionSpec, FrameSpec

EXPANSION = 4
"""Width of the hidden layer of a block's MLP, divided by that of the block."""
MODULATED = 3
"""Sublayers of a block: attention within a frame, attention to earlier frames, MLP. Each has a shift, a scale and a gate."""

ActionWay = Literal["adaln", "additive", "film", "cross_attention", "token"]


@dataclass(frozen=True)
class FrameTransformerConfig:
    """The size of a causal transformer over the patches of frames."""

    layers: int = setting(8, minimum=1)
    """Number of blocks."""
    heads: int = setting(6, minimum=1)
    """Attention heads."""
    width: int = setting(384, minimum=2)
    """Length of the vector of a patch. Even."""
    patch: int = setting(8, minimum=1)
    """Side of a patch in pixels. It divides the sides of the frames."""
    num_frames: int = setting(16, minimum=2)
    """L, frames that a frame attends to, itself included, and frames per training segment."""
    actions: ActionWay = setting("adaln")
    """How an action enters the frame that it leads to: added to the noise level's vector (adaln), added to every patch (additive), as
    a scale and shift of every block's input (film), attended to (cross_attention), or as one more token of the frame (token)."""


@dataclass(frozen=True)
class FrameTransformerShape:
    """All that the network's size depends on."""

    config: FrameTransformerConfig
    frames: FrameSpec
    actions: ActionSpec

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in a column and in a row of a frame."""
        return self.frames.height // self.config.patch, self.frames.width // self.config.patch

    @property
    def tokens(self) -> int:
        """Tokens per frame: its patches, and its action if that is a token."""
        return self.grid[0] * self.grid[1] + (self.config.actions == "token")

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        return IMAGE_CHANNELS * self.config.patch**2


def network_cost(shape: FrameTransformerShape) -> Cost:
    """All parameters, and the FLOP of one frame that attends to a whole memory."""
    config, width, rows = shape.config, shape.config.width, shape.tokens
    patches = shape.grid[0] * shape.grid[1]
    products = 2.0 * len(shape.actions.sizes) * width if shape.actions.kind == "Box" else 0.0
    parts = [
        *(linear(shape.patch_values, width, patches), embedding(patches, width), linear(width, width), linear(width, width)),
        *(embedding(shape.actions.width + 1, width), Cost(0, products)),
        *(linear(width, 2 * width), linear(width, shape.patch_values, patches)),
        *[_block(config, rows)] * config.layers,
    ]
    return total(parts)


def _block(config: FrameTransformerConfig, rows: int) -> Cost:
    width = config.width
    parts = [linear(width, 3 * MODULATED * width)]
    parts += [linear(width, 3 * width, rows), linear(width, width, rows)] * 2  # attention within the frame, and to earlier frames
    parts += [attention(rows, rows, width), attention(rows, config.num_frames, width), embedding(config.heads, config.num_frames)]
    parts += [linear(width, EXPANSION * width, rows), linear(EXPANSION * width, width, rows)]
    if config.actions == "film":
        parts.append(linear(width, 2 * width))
    if config.actions == "cross_attention":
        parts += [linear(width, width, rows), linear(width, 2 * width, 2), linear(width, width, rows), attention(rows, 2, width)]
        parts.append(embedding(1, width))
    return total(parts)
