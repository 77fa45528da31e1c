"""The networks' shapes as plain numbers, without torch: what their blocks are built from and what planning counts."""

from collections.abc import Iterator
from dataclasses import dataclass

from diamond_bench.config import ActorCriticConfig, NetworkConfig, RewardEndConfig
from diamond_bench.errors import UserError

NORM_EPS = 1e-5
IMAGE_CHANNELS = 3
NUM_MIDDLE_BLOCKS = 2
NUM_REWARDS = 3
"""Classes of a reward: the signs -1, 0, +1."""
NUM_ENDS = 2
"""Classes of an end: no, yes."""


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


def reward_end_stages(config: RewardEndConfig) -> list[list[Block]]:
    """Residual blocks of each stage of the reward/end model; the last is one of its own, always with attention.

    All stages but the first and the last begin by halving the resolution, as wide as the stage before.
    """
    stages = []
    for number, (depth, width) in enumerate(zip(config.depths, config.channels, strict=True)):
        before = config.channels[max(0, number - 1)]
        stages.append([Block(before if i == 0 else width, width, config.attention[number]) for i in range(depth)])
    return [*stages, [Block(config.channels[-1], config.channels[-1], True)] * NUM_MIDDLE_BLOCKS]


def reward_end_sides(config: RewardEndConfig, frame_size: int) -> list[int]:
    """A picture's side in each stage of the reward/end model: halved and rounded up, as a convolution of stride 2 does."""
    sides = [frame_size]
    for _ in config.channels[1:]:
        sides.append(-(-sides[-1] // 2))
    return [*sides, sides[-1]]


def reward_end_features(config: RewardEndConfig, frame_size: int) -> int:
    """Width of what the reward/end model's LSTM is fed."""
    return config.channels[-1] * reward_end_sides(config, frame_size)[-1] ** 2


def actor_critic_sides(config: ActorCriticConfig, frame_size: int) -> list[int]:
    """A picture's side in each stage of the actor-critic, and after the last: halved and rounded down by each max-pooling."""
    sides = [frame_size]
    for down in config.down:
        sides.append(sides[-1] // 2 if down else sides[-1])
    return sides


def actor_critic_features(config: ActorCriticConfig, frame_size: int) -> int:
    """Width of what the actor-critic's LSTM cell is fed."""
    return config.channels[-1] * actor_critic_sides(config, frame_size)[-1] ** 2


def _same_length(group: str, **fields: tuple[object, ...]) -> None:
    if len({len(field) for field in fields.values()}) > 1:
        shown = ", ".join(f"{group}.{name} has {len(field)}" for name, field in fields.items())
        raise UserError(f"{', '.join(fields)} need one entry a stage: {shown}")


def check_reward_end(config: RewardEndConfig, frame_size: int) -> None:
    """Refuses a reward/end model that cannot be built for frames of this side. Raises UserError naming the field."""
    _same_length("reward_end", depths=config.depths, channels=config.channels, attention=config.attention)
    if frame_size < 1:
        raise UserError(f"frame_size={frame_size}: must be at least 1")
    for block in {block for stage in reward_end_stages(config) for block in stage}:
        width = block.out_channels
        if width % num_groups(width):
            raise UserError(
                f"reward_end.channels={config.channels}: a block is {width} wide, not divisible by its {num_groups(width)} groups"
            )
        if block.attention and width % num_heads(width):
            raise UserError(
                f"reward_end.channels={config.channels}: an attention is {width} wide, not divisible by its {num_heads(width)} heads"
            )


def check_actor_critic(config: ActorCriticConfig, frame_size: int) -> None:
    """Refuses an actor-critic that cannot be built for frames of this side. Raises UserError naming the field."""
    _same_length("actor_critic", channels=config.channels, down=config.down)
    for width in config.channels:
        if width % num_groups(width):
            raise UserError(
                f"actor_critic.channels={config.channels}: a stage is {width} wide, not divisible by its {num_groups(width)} groups"
            )
    if actor_critic_sides(config, frame_size)[-1] < 1:
        raise UserError(
            f"actor_critic.down={config.down}: {sum(config.down)} max-poolings leave nothing of a frame of side {frame_size}; "
            f"use fewer of them or a larger env.frame_size"
        )
