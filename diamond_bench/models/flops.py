"""What the networks cost, from their configs alone and without torch (planning shows it before anything runs)."""

from itertools import pairwise

from diamond_bench.config import ActorCriticConfig, NetworkConfig, RewardEndConfig
from diamond_bench.models.shape import (
    IMAGE_CHANNELS,
    NUM_ENDS,
    NUM_REWARDS,
    Block,
    actor_critic_features,
    actor_critic_sides,
    all_blocks,
    padded,
    reward_end_features,
    reward_end_sides,
    reward_end_stages,
)


def denoiser_flops(network: NetworkConfig, num_frames: int, frame_size: int) -> float:
    """FLOP of one forward pass for one frame of side `frame_size`: convolutions, linear maps and attention, a multiply-add being 2."""
    pixels = [(padded(frame_size, network) // 2**level) ** 2 for level in range(len(network.channels))]
    width, cond = network.channels[0], network.cond_channels
    outer = frame_size**2 * 9 * width * (num_frames + 2) * IMAGE_CHANNELS  # first and last convolution, not padded
    macs = outer + 2 * cond * cond
    for level, block in all_blocks(network):
        macs += _block_macs(block, pixels[level], cond)
    for level, above in enumerate(network.channels[:-1], start=1):
        # the downsampling into a level is as wide as the level above it, and so is the upsampling out of it
        macs += 9 * above * above * (pixels[level] + pixels[level - 1])
    return 2.0 * macs


def denoiser_parameters(network: NetworkConfig, num_frames: int, num_actions: int) -> int:
    """Trained parameters."""
    width, cond = network.channels[0], network.cond_channels
    total = num_actions * (cond // num_frames) + 2 * (cond + 1) * cond  # action embedding, condition
    total += ((num_frames + 1) * IMAGE_CHANNELS * 9 + 1) * width  # first convolution
    total += 2 * width + (9 * width + 1) * IMAGE_CHANNELS  # last norm and convolution
    for _, block in all_blocks(network):
        total += _block_parameters(block, cond)
    return total + sum(2 * (9 * above + 1) * above for above in network.channels[:-1])


def _block_macs(block: Block, pixels: int, cond: int) -> int:
    a, b = block.in_channels, block.out_channels
    macs = pixels * (9 * a * b + 9 * b * b + (a * b if a != b else 0)) + cond * 2 * (a + b)
    return macs + (pixels * 4 * b * b + 2 * pixels * pixels * b if block.attention else 0)


def _block_parameters(block: Block, cond: int) -> int:
    a, b = block.in_channels, block.out_channels
    total = (cond + 1) * 2 * (a + b) + (9 * a + 1) * b + (9 * b + 1) * b + ((a + 1) * b if a != b else 0)
    return total + (2 * b + (b + 1) * 4 * b if block.attention else 0)


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
