"""The U-Net's shape as plain numbers, without torch: what its blocks are built from and what planning counts."""

from collections.abc import Iterator
from dataclasses import dataclass

from diamond_bench.config import NetworkConfig
from diamond_bench.errors import UserError

NORM_EPS = 1e-5
IMAGE_CHANNELS = 3
NUM_MIDDLE_BLOCKS = 2


def num_groups(channels: int) -> int:
    """Groups of a group norm."""
    return max(1, channels // 32)


def num_heads(channels: int) -> int:
    """Heads of a self-attention."""
    return max(1, channels // 8)


@dataclass(frozen=True)
class Block:
    """Widths of one residual block."""

    in_channels: int
    out_channels: int
    attention: bool


def down_blocks(network: NetworkConfig, level: int) -> list[Block]:
    """Residual blocks of a level on the way down; level 0 has the full resolution."""
    width, above, attention = network.channels[level], network.channels[max(0, level - 1)], network.attention[level]
    return [Block(above if i == 0 else width, width, attention) for i in range(network.depths[level])]


def middle_blocks(network: NetworkConfig) -> list[Block]:
    """The residual blocks between down and up, always with attention."""
    return [Block(network.channels[-1], network.channels[-1], True)] * NUM_MIDDLE_BLOCKS


def up_blocks(network: NetworkConfig, level: int) -> list[Block]:
    """Residual blocks of a level on the way up; each is fed its input and one stored output of the level, the last the level's input."""
    width, above, attention = network.channels[level], network.channels[max(0, level - 1)], network.attention[level]
    return [Block(2 * width, width, attention)] * network.depths[level] + [Block(width + above, above, attention)]


def all_blocks(network: NetworkConfig) -> Iterator[tuple[int, Block]]:
    """Every residual block with its level."""
    for level in range(len(network.depths)):
        for block in down_blocks(network, level) + up_blocks(network, level):
            yield level, block
    for block in middle_blocks(network):
        yield len(network.depths) - 1, block


def padded(size: int, network: NetworkConfig) -> int:
    """A picture's side after padding to a multiple of 2^(levels - 1)."""
    multiple = 2 ** (len(network.depths) - 1)
    return -(-size // multiple) * multiple


def check_network(network: NetworkConfig, num_frames: int) -> None:
    """Refuses a network that cannot be built. Raises UserError naming the field."""
    lengths = {"depths": len(network.depths), "channels": len(network.channels), "attention": len(network.attention)}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"network.{name} has {n}" for name, n in lengths.items())
        raise UserError(f"depths, channels and attention need one entry a level: {shown}")
    for block in {block for _, block in all_blocks(network)}:
        for channels in (block.in_channels, block.out_channels):
            if channels % num_groups(channels):
                raise UserError(
                    f"network.channels={network.channels}: a block is {channels} wide, not divisible by its {num_groups(channels)} groups"
                )
        if block.attention and block.out_channels % num_heads(block.out_channels):
            raise UserError(
                f"network.channels={network.channels}: an attention is {block.out_channels} wide, "
                f"not divisible by its {num_heads(block.out_channels)} heads"
            )
    if network.cond_channels % 2 or network.cond_channels % num_frames:
        raise UserError(
            f"network.cond_channels={network.cond_channels}: must be divisible by 2 (cosine and sine features of the noise level) "
            f"and by conditioning.num_frames={num_frames} (an action embedding each)"
        )
