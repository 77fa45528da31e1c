"""The cost of reward_end_model.py, without torch."""

from diamond_bench.config import RewardEndConfig
from diamond_bench.models.cost import Cost, convolution, embedding, linear, lstm, residual_block, total
from diamond_bench.models.shape import IMAGE_CHANNELS, NUM_ENDS, NUM_REWARDS, reward_end_features, reward_end_sizes, reward_end_stages
from diamond_bench.spaces import ActionSpec, FrameSpec


def reward_end_cost(config: RewardEndConfig, actions: ActionSpec, frames: FrameSpec) -> Cost:
    """One forward pass of `RewardEndModel` for one step: two frames and the action between them."""
    sizes, state = reward_end_sizes(config, frames), config.lstm_dim
    parts = [embedding(actions.width, config.cond_channels), convolution(2 * IMAGE_CHANNELS, config.channels[0], 3, frames.pixels)]
    for seen, stage in zip(sizes, reward_end_stages(config), strict=True):
        parts += [residual_block(block, config.cond_channels, seen.pixels) for block in stage]
    parts += [convolution(above, above, 3, seen.pixels) for above, seen in zip(config.channels[:-1], sizes[1:-1], strict=True)]
    outputs = NUM_REWARDS + NUM_ENDS
    head = linear(state, state) + Cost(state * outputs, 2.0 * state * outputs)  # the last layer has no bias
    return total(parts) + lstm(reward_end_features(config, frames), state) + head
