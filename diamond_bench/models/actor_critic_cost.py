"""The cost of actor_critic.py, without torch."""

from itertools import pairwise

from diamond_bench.config import ActorCriticConfig
from diamond_bench.models.cost import Cost, convolution, linear, lstm, norm, total
from diamond_bench.models.shape import IMAGE_CHANNELS, actor_critic_features, actor_critic_sizes
from diamond_bench.spaces import ActionSpec, FrameSpec


def actor_critic_cost(config: ActorCriticConfig, actions: ActionSpec, frames: FrameSpec) -> Cost:
    """One forward pass of `ActorCritic` for one frame."""
    parts = [convolution(IMAGE_CHANNELS, config.channels[0], 3, frames.pixels)]
    widths = (config.channels[0], *config.channels)
    for seen, (a, b) in zip(actor_critic_sizes(config, frames), pairwise(widths), strict=False):
        parts += [norm(a), convolution(a, b, 3, seen.pixels)]
        parts += [convolution(a, b, 1, seen.pixels)] if a != b else []
    state = config.lstm_dim
    return total(parts) + lstm(actor_critic_features(config, frames), state) + linear(state, actions.width) + linear(state, 1)
