"""The cost of outcome_heads.py, without torch."""

from diamond_bench.config import HeadsConfig, NetworkConfig
from diamond_bench.models.cost import Cost, level_pixels, linear, lstm, norm, total
from diamond_bench.models.shape import NUM_ENDS, NUM_REWARDS
from diamond_bench.spaces import FrameSpec

_SCALES = 3
"""Learned scales of the losses."""


def heads_cost(network: NetworkConfig, frames: FrameSpec) -> Cost:
    """One forward pass of `OutcomeHeads` on the deepest features of a denoiser. Nothing without such heads."""
    config: HeadsConfig = network.heads
    if not config.on_trunk:
        return Cost()
    parts = [norm(network.channels[-1]), linear(network.channels[-1] * level_pixels(network, frames)[-1], config.width)]
    if config.memory:
        parts.append(lstm(config.width, config.memory))
    parts.append(linear(config.memory or config.width, NUM_REWARDS + NUM_ENDS))
    return total(parts) + Cost(_SCALES * (config.weights == "harmonised"))
