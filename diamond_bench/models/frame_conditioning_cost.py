"""The cost of frame_conditioning.py, without torch."""

from dataclasses import replace

from diamond_bench.config import ConditioningConfig, NetworkConfig
from diamond_bench.models.cost import ConditioningCost, convolution, embedding, level_pixels, norm, residual_block, total
from diamond_bench.models.shape import IMAGE_CHANNELS, down_blocks, history_network, history_widths
from diamond_bench.spaces import ActionSpec, FrameSpec


def stacked(network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, frames: FrameSpec) -> ConditioningCost:
    """`StackedFrames`."""
    return ConditioningCost(planes=conditioning.num_frames * IMAGE_CHANNELS)


def attended(network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, frames: FrameSpec) -> ConditioningCost:
    """`AttendedFrames`: the encoder runs once per past frame."""
    pixels, light, widths = level_pixels(network, frames), history_network(network, conditioning), history_widths(network, conditioning)
    parts = [convolution(IMAGE_CHANNELS, light.channels[0], 3, frames.pixels)]
    parts += [convolution(above, above, 3, pixels[level]) for level, above in enumerate(light.channels[:-1], start=1)]
    for level, width in enumerate(light.channels):
        parts += [residual_block(block, light.cond_channels, pixels[level]) for block in down_blocks(light, level)]
        parts += [norm(width)] if widths[level] else []
    own = total(parts).repeated(conditioning.num_frames) + embedding(conditioning.num_frames, network.cond_channels)
    tokens = tuple(conditioning.num_frames * there if width else 0 for there, width in zip(pixels, widths, strict=True))
    return ConditioningCost(own, 0, widths, tokens)


def both(network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, frames: FrameSpec) -> ConditioningCost:
    """`StackedAndAttendedFrames`."""
    given = (network, conditioning, actions, frames)
    return replace(attended(*given), planes=stacked(*given).planes)
