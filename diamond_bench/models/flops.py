"""What the networks cost, from their configs alone and without torch (planning shows it before anything runs)."""

from itertools import pairwise

from diamond_bench.config import ActorCriticConfig, ConditioningConfig, NetworkConfig, RewardEndConfig
from diamond_bench.models.shape import (
    IMAGE_CHANNELS,
    NUM_ENDS,
    NUM_REWARDS,
    POSITION_CHANNELS,
    Block,
    action_rows,
    action_width,
    actor_critic_features,
    actor_critic_sides,
    all_blocks,
    attends,
    down_blocks,
    history_network,
    history_widths,
    input_planes,
    padded,
    reward_end_features,
    reward_end_sides,
    reward_end_stages,
)


def denoiser_flops(network: NetworkConfig, conditioning: ConditioningConfig, frame_size: int) -> float:
    """FLOP of one forward pass for one frame of side `frame_size`: convolutions, linear maps and attention, a multiply-add being 2.

    Ways to condition that others have registered are not counted, nor what they add to the U-Net; see `denoiser_parameters`.
    """
    pixels = [(padded(frame_size, network) // 2**level) ** 2 for level in range(len(network.channels))]
    width, cond, num_frames = network.channels[0], network.cond_channels, conditioning.num_frames
    planes = input_planes(network, conditioning) + 2 * IMAGE_CHANNELS
    macs = frame_size**2 * 9 * width * planes + 2 * cond * cond  # first and last convolution, not padded
    if conditioning.actions == "group_norm" and conditioning.action_width:
        macs += num_frames * conditioning.action_width * cond
    if conditioning.frame_noise > 0:
        macs += cond * cond
    for level, block in all_blocks(network, history_widths(network, conditioning)):
        macs += _block_macs(block, pixels[level], cond) + _cross_attention_macs(block, pixels[level], num_frames * pixels[level])
    for level, above in enumerate(network.channels[:-1], start=1):
        # the downsampling into a level is as wide as the level above it, and so is the upsampling out of it
        macs += 9 * above * above * (pixels[level] + pixels[level - 1])
    if attends(conditioning):
        light = history_network(network, conditioning)
        encoded = frame_size**2 * 9 * IMAGE_CHANNELS * light.channels[0]
        encoded += sum(9 * above * above * pixels[level] for level, above in enumerate(light.channels[:-1], start=1))
        for level in range(len(light.channels)):
            encoded += sum(_block_macs(block, pixels[level], cond) for block in down_blocks(light, level))
        macs += num_frames * encoded
    return 2.0 * macs


def denoiser_parameters(network: NetworkConfig, conditioning: ConditioningConfig, num_actions: int) -> int:
    """Trained parameters.

    Of ways to condition that others have registered nothing is known: their own parameters are left out, and those of the first
    convolution and of attentions that go with them.
    """
    width, cond, num_frames = network.channels[0], network.cond_channels, conditioning.num_frames
    total = 2 * (cond + 1) * cond  # condition
    if conditioning.actions in ("group_norm", "planes"):
        total += action_rows(conditioning, num_actions) * action_width(network, conditioning)
    if conditioning.actions == "group_norm" and conditioning.action_width:
        total += (num_frames * conditioning.action_width + 1) * cond
    if conditioning.frame_noise > 0:
        total += (cond + 1) * cond
    total += ((input_planes(network, conditioning) + IMAGE_CHANNELS) * 9 + 1) * width  # first convolution
    total += 2 * width + (9 * width + 1) * IMAGE_CHANNELS  # last norm and convolution
    for _, block in all_blocks(network, history_widths(network, conditioning)):
        total += _block_parameters(block, cond)
    total += sum(2 * (9 * above + 1) * above for above in network.channels[:-1])
    return total + (_history_parameters(network, conditioning) if attends(conditioning) else 0)


def _history_parameters(network: NetworkConfig, conditioning: ConditioningConfig) -> int:
    light, cond = history_network(network, conditioning), network.cond_channels
    total = conditioning.num_frames * cond + (IMAGE_CHANNELS * 9 + 1) * light.channels[0]
    total += sum((9 * above + 1) * above for above in light.channels[:-1])
    for level, width in enumerate(light.channels):
        total += sum(_block_parameters(block, cond) for block in down_blocks(light, level))
        total += 2 * width if conditioning.attended_levels[level] else 0  # norm of the tokens
    return total


def _block_macs(block: Block, pixels: int, cond: int) -> int:
    a, b = block.in_channels, block.out_channels
    macs = pixels * (9 * a * b + 9 * b * b + (a * b if a != b else 0)) + cond * 2 * (a + b)
    return macs + (pixels * 4 * b * b + 2 * pixels * pixels * b if block.attention else 0)


def _cross_attention_macs(block: Block, pixels: int, tokens: int) -> int:
    b = block.out_channels
    mapped = pixels * (2 * b + POSITION_CHANNELS) * b + tokens * block.history * 2 * b  # query and output, key and value
    return mapped + 2 * pixels * tokens * b if block.history else 0


def _block_parameters(block: Block, cond: int) -> int:
    a, b = block.in_channels, block.out_channels
    total = (cond + 1) * 2 * (a + b) + (9 * a + 1) * b + (9 * b + 1) * b + ((a + 1) * b if a != b else 0)
    total += 2 * b + (b + 1) * 4 * b if block.attention else 0
    crossed = 2 * b + (b + POSITION_CHANNELS + 1) * b + (block.history + 1) * 2 * b + (b + 1) * b
    return total + (crossed if block.history else 0)


def reward_end_flops(config: RewardEndConfig, frame_size: int) -> float:
    """FLOP of one forward pass for one step (a pair of frames), counted as in `denoiser_flops`."""
    sides, stages, width = reward_end_sides(config, frame_size), reward_end_stages(config), config.lstm_dim
    macs = frame_size**2 * 9 * 2 * IMAGE_CHANNELS * config.channels[0]
    macs += sum(_block_macs(block, side * side, config.cond_channels) for side, stage in zip(sides, stages, strict=True) for block in stage)
    macs += sum(9 * above * above * side * side for above, side in zip(config.channels[:-1], sides[1:-1], strict=True))
    macs += 4 * width * (reward_end_features(config, frame_size) + width) + width * (width + NUM_REWARDS + NUM_ENDS)
    return 2.0 * macs


def reward_end_parameters(config: RewardEndConfig, num_actions: int, frame_size: int) -> int:
    """Trained parameters."""
    width, cond = config.lstm_dim, config.cond_channels
    total = num_actions * cond + (2 * IMAGE_CHANNELS * 9 + 1) * config.channels[0]
    total += sum(_block_parameters(block, cond) for stage in reward_end_stages(config) for block in stage)
    total += sum((9 * above + 1) * above for above in config.channels[:-1])
    return total + 4 * width * (reward_end_features(config, frame_size) + width + 2) + width * (width + 1 + NUM_REWARDS + NUM_ENDS)


def actor_critic_flops(config: ActorCriticConfig, num_actions: int, frame_size: int) -> float:
    """FLOP of one forward pass for one frame, counted as in `denoiser_flops`."""
    widths, width = (config.channels[0], *config.channels), config.lstm_dim
    macs = frame_size**2 * 9 * IMAGE_CHANNELS * widths[0]
    for side, a, b in zip(actor_critic_sides(config, frame_size), widths, widths[1:], strict=False):
        macs += side * side * (9 * a * b + (a * b if a != b else 0))
    macs += 4 * width * (actor_critic_features(config, frame_size) + width) + width * (num_actions + 1)
    return 2.0 * macs


def actor_critic_parameters(config: ActorCriticConfig, num_actions: int, frame_size: int) -> int:
    """Trained parameters."""
    widths, width = (config.channels[0], *config.channels), config.lstm_dim
    total = (IMAGE_CHANNELS * 9 + 1) * widths[0]
    total += sum(2 * a + (9 * a + 1) * b + ((a + 1) * b if a != b else 0) for a, b in pairwise(widths))
    return total + 4 * width * (actor_critic_features(config, frame_size) + width + 2) + (width + 1) * (num_actions + 1)
