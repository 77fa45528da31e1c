"""The settings and the cost of vq_tokenizer.py, without torch."""

import math
from dataclasses import dataclass
from typing import Literal

from diamond_bench.config.fields import setting
from diamond_bench.models.cost import Cost, attention, convolution, embedding, norm, total
from diamond_bench.models.shape import IMAGE_CHANNELS
from diamond_bench.spaces import FrameSpec

NORM_EPS = 1e-6
_VGG16 = ((3, 64, 0), (64, 64, 0), (64, 128, 1), (128, 128, 1), (128, 256, 2), *[(256, 256, 2)] * 2, (256, 512, 3), *[(512, 512, 3)] * 2)
_VGG16_LAST = ((512, 512, 4),) * 3
"""Input channels, output channels and halvings of the convolutions of VGG16."""


@dataclass(frozen=True)
class TokenizerConfig:
    """The VQ autoencoder of a token world model. The neutral values are those of IRIS (Micheli et al. 2023, appendix A)."""

    channels: int = setting(64, minimum=1)
    """Channels of all levels."""
    levels: int = setting(5, minimum=1)
    """Resolutions, each half of the one before. A frame of 64 x 64 pixels has 4 x 4 = 16 tokens with 5 levels, and 64 with 4."""
    depth: int = setting(2, minimum=1)
    """Residual blocks per level of the encoder. The decoder has one more."""
    attention: tuple[int, ...] = setting((16, 8))
    """Heights, in pixels, of the feature maps with self-attention after each residual block."""
    latent_channels: int = setting(512, minimum=1)
    """Channels of the encoder's output."""
    code_width: int = setting(512, minimum=1)
    """Length of a code."""
    codes: int = setting(512, minimum=2)
    """Number of codes."""
    reconstruction: Literal["absolute", "squared"] = setting("absolute")
    """The error of a reconstruction: absolute (IRIS) or squared. The least absolute error of a pixel that rarely changes is that of the
    background, so small objects can be lost without LPIPS."""
    perceptual: bool = setting(True)
    """Whether the loss contains LPIPS (VGG16), as in IRIS. Its weights must be there, and LPIPS is then no independent metric."""
    batch_size: int = setting(256, minimum=1)
    """Frames per update."""


def norm_groups(channels: int) -> int:
    """Groups of a group norm: 32, or the largest number that divides both."""
    return math.gcd(32, channels)


def padded(config: TokenizerConfig, frames: FrameSpec) -> FrameSpec:
    """The size of frames after padding to multiples of the pixels of a token."""
    height, width = (-(-side >> (config.levels - 1)) << (config.levels - 1) for side in frames.sides)
    return FrameSpec(height, width)


def level_heights(config: TokenizerConfig, frames: FrameSpec) -> list[int]:
    """Height of the feature maps of each level in pixels, finest first."""
    return [padded(config, frames).height >> level for level in range(config.levels)]


def num_tokens(config: TokenizerConfig, frames: FrameSpec) -> int:
    """K, tokens per frame."""
    return padded(config, frames).pixels >> (2 * (config.levels - 1))


def encoder_cost(config: TokenizerConfig, frames: FrameSpec) -> Cost:
    """From a frame to its latents, without the search for the nearest codes."""
    c, parts = config.channels, []
    for level, pixels in enumerate(_level_pixels(config, frames)):
        parts += [_level(config, frames, level, config.depth)]
        if level > 0:
            parts.append(convolution(c, c, 3, pixels))
    last = _level_pixels(config, frames)[-1]
    parts += [convolution(IMAGE_CHANNELS, c, 3, padded(config, frames).pixels), _middle(c, last), norm(c)]
    parts += [convolution(c, config.latent_channels, 3, last), convolution(config.latent_channels, config.code_width, 1, last)]
    return total(parts)


def decoder_cost(config: TokenizerConfig, frames: FrameSpec) -> Cost:
    """From codes to a frame."""
    c, parts = config.channels, []
    for level, pixels in enumerate(_level_pixels(config, frames)):
        parts += [_level(config, frames, level, config.depth + 1)]
        if level < config.levels - 1:
            parts.append(convolution(c, c, 3, pixels))
    last = _level_pixels(config, frames)[-1]
    parts += [convolution(config.code_width, config.latent_channels, 1, last), convolution(config.latent_channels, c, 3, last)]
    parts += [_middle(c, last), norm(c), convolution(c, IMAGE_CHANNELS, 3, padded(config, frames).pixels)]
    return total(parts)


def search_cost(config: TokenizerConfig, frames: FrameSpec) -> Cost:
    """The search for the nearest codes, with the parameters of the code book."""
    return embedding(config.codes, config.code_width) + Cost(0, 2.0 * num_tokens(config, frames) * config.codes * config.code_width)


def update_flops(config: TokenizerConfig, frames: FrameSpec) -> float:
    """FLOP of an update for one frame. A backward pass counts as two forward passes. LPIPS runs on two images and has a gradient for one of
    them, without gradients of its weights."""
    trained = encoder_cost(config, frames).flops + decoder_cost(config, frames).flops
    vgg = sum(convolution(a, b, 3, frames.pixels >> (2 * halvings)).flops for a, b, halvings in (*_VGG16, *_VGG16_LAST))
    return 3 * trained + search_cost(config, frames).flops + (3 * vgg if config.perceptual else 0.0)


def _level_pixels(config: TokenizerConfig, frames: FrameSpec) -> list[int]:
    return [padded(config, frames).pixels >> (2 * level) for level in range(config.levels)]


def _level(config: TokenizerConfig, frames: FrameSpec, level: int, depth: int) -> Cost:
    pixels, attended = _level_pixels(config, frames)[level], level_heights(config, frames)[level] in config.attention
    blocks = [_residual(config.channels, pixels), *([_attention(config.channels, pixels)] if attended else [])]
    return total(blocks * depth)


def _residual(channels: int, pixels: int) -> Cost:
    return total([norm(channels), convolution(channels, channels, 3, pixels)] * 2)


def _attention(channels: int, pixels: int) -> Cost:
    maps = convolution(channels, 3 * channels, 1, pixels) + convolution(channels, channels, 1, pixels)
    return norm(channels) + maps + attention(pixels, pixels, channels)


def _middle(channels: int, pixels: int) -> Cost:
    return total([*[_residual(channels, pixels)] * 2, _attention(channels, pixels)])
