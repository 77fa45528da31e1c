"""What a denoiser costs, from its config alone and without torch (planning shows it before anything runs)."""

from diamond_bench.config import NetworkConfig
from diamond_bench.models.shape import IMAGE_CHANNELS, all_blocks, padded


def denoiser_flops(network: NetworkConfig, num_frames: int, frame_size: int) -> float:
    """FLOP of one forward pass for one frame of side `frame_size`: convolutions, linear maps and attention, a multiply-add being 2."""
    pixels = [(padded(frame_size, network) // 2**level) ** 2 for level in range(len(network.channels))]
    width, cond = network.channels[0], network.cond_channels
    outer = frame_size**2 * 9 * width * (num_frames + 2) * IMAGE_CHANNELS  # first and last convolution, not padded
    macs = outer + 2 * cond * cond
    for level, block in all_blocks(network):
        a, b, n = block.in_channels, block.out_channels, pixels[level]
        macs += n * (9 * a * b + 9 * b * b + (a * b if a != b else 0)) + cond * 2 * (a + b)
        if block.attention:
            macs += n * 4 * b * b + 2 * n * n * b
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
        a, b = block.in_channels, block.out_channels
        total += (cond + 1) * 2 * (a + b) + (9 * a + 1) * b + (9 * b + 1) * b + ((a + 1) * b if a != b else 0)
        if block.attention:
            total += 2 * b + (b + 1) * 4 * b
    return total + sum(2 * (9 * above + 1) * above for above in network.channels[:-1])
