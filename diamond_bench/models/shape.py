"""The networks' shapes as plain numbers, without torch. Both their blocks and their costs are derived from these."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diamond_bench.config import (
    ACTION_CONDITIONINGS,
    FRAME_CONDITIONINGS,
    ActorCriticConfig,
    ConditioningConfig,
    ConditioningOption,
    HeadsConfig,
    NetworkConfig,
    RewardEndConfig,
    Sampler,
)
from diamond_bench.errors import UserError, nearest
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec

NORM_EPS = 1e-5
IMAGE_CHANNELS = 3
NUM_MIDDLE_BLOCKS = 2
POSITION_CHANNELS = 16
"""Channels that encode a pixel's position for attention."""
PLANE_WIDTH = 4
"""Planes per action if conditioning.action_width is not set."""
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
    history: int = 0
    """Width of the tokens it attends to, or 0."""


def down_blocks(network: NetworkConfig, level: int, history: int = 0) -> list[Block]:
    """Residual blocks of a level on the way down. Level 0 has the full resolution."""
    width, above, attention = network.channels[level], network.channels[max(0, level - 1)], network.attention[level]
    return [Block(above if i == 0 else width, width, attention, history) for i in range(network.depths[level])]


def middle_blocks(network: NetworkConfig, history: int = 0) -> list[Block]:
    """The residual blocks between down and up, always with self-attention."""
    return [Block(network.channels[-1], network.channels[-1], True, history)] * NUM_MIDDLE_BLOCKS


def up_blocks(network: NetworkConfig, level: int, history: int = 0) -> list[Block]:
    """Residual blocks of a level on the way up. Each receives its input and one stored output of the level; the last one receives the
    level's input."""
    width, above, attention = network.channels[level], network.channels[max(0, level - 1)], network.attention[level]
    last = Block(width + above, above, attention, history)
    return [Block(2 * width, width, attention, history)] * network.depths[level] + [last]


def all_blocks(network: NetworkConfig, history: Sequence[int] = ()) -> Iterator[tuple[int, Block]]:
    """Every residual block with its level. `history`: width of the tokens that each level attends to, or ()."""
    widths = history or [0] * len(network.depths)
    for level, width in enumerate(widths):
        for block in down_blocks(network, level, width) + up_blocks(network, level, width):
            yield level, block
    for block in middle_blocks(network, widths[-1]):
        yield len(network.depths) - 1, block


def action_rows(conditioning: ConditioningConfig, num_actions: int) -> int:
    """Rows of the table of actions. With action dropout, the last one stands for a withheld action."""
    return num_actions + (conditioning.action_dropout > 0)


def active_bits(actions: ActionSpec) -> list[int]:
    """Rows of each column of actions with conditioning.actions=active_bits. A column of two values is a key, which is active or not."""
    return [1 if size == 2 and actions.trailing else size or 1 for size in actions.sizes]


def action_width(network: NetworkConfig, conditioning: ConditioningConfig) -> int:
    """Width of the embedding of one action."""
    default = PLANE_WIDTH if conditioning.actions == "planes" else network.cond_channels // conditioning.num_frames
    return conditioning.action_width or default


def attends(conditioning: ConditioningConfig) -> bool:
    """Whether past frames go through the history encoder."""
    return conditioning.frames in ("cross_attention", "both")


def history_widths(network: NetworkConfig, conditioning: ConditioningConfig) -> tuple[int, ...]:
    """Width of the history encoder's tokens for each level of the U-Net, or 0 for a level that does not attend."""
    if not attends(conditioning):
        return (0,) * len(network.channels)
    levels = zip(conditioning.history_channels, conditioning.attended_levels, strict=True)
    return tuple(width + POSITION_CHANNELS if attended else 0 for width, attended in levels)


def history_network(network: NetworkConfig, conditioning: ConditioningConfig) -> NetworkConfig:
    """The history encoder as the downward half of a U-Net that ends at the deepest attended level."""
    levels = max(level for level, attended in enumerate(conditioning.attended_levels) if attended) + 1
    return NetworkConfig(
        conditioning.history_depths[:levels], conditioning.history_channels[:levels], (False,) * levels, network.cond_channels
    )


def padded(size: int, network: NetworkConfig) -> int:
    """A frame's side after padding to a multiple of 2^(levels - 1)."""
    multiple: int = 2 ** (len(network.depths) - 1)
    return -(-size // multiple) * multiple


def check_network(network: NetworkConfig, conditioning: ConditioningConfig) -> None:
    """Refuses a denoiser network that cannot be built. Raises UserError with the field and what fits."""
    _same_length("network", "level", depths=network.depths, channels=network.channels, attention=network.attention)
    _check_conditioning(network, conditioning)
    for block in {block for _, block in all_blocks(network, history_widths(network, conditioning))}:
        for channels in (block.in_channels, block.out_channels):
            if channels % num_groups(channels):
                raise UserError(
                    f"network.channels={network.channels}: a block is {channels} wide, not divisible by its {num_groups(channels)} groups"
                )
        if (block.attention or block.history) and block.out_channels % num_heads(block.out_channels):
            raise UserError(
                f"network.channels={network.channels}: an attention is {block.out_channels} wide, "
                f"not divisible by its {num_heads(block.out_channels)} heads"
            )
    if network.cond_channels % 2:
        raise UserError(
            f"network.cond_channels={network.cond_channels}: must be divisible by 2 (cosine and sine features of the noise level)"
        )
    fills = conditioning.actions in ("group_norm", "active_bits") and not conditioning.action_width
    if fills and network.cond_channels % conditioning.num_frames:
        raise UserError(
            f"network.cond_channels={network.cond_channels}: must be divisible by conditioning.num_frames={conditioning.num_frames} "
            f"(an action embedding each), or set the width of an embedding with conditioning.action_width"
        )


def check_guidance(sampler: Sampler, conditioning: ConditioningConfig) -> None:
    """Refuses guidance on actions for a model that was never trained with withheld actions. Raises UserError."""
    if sampler.guidance != 1 and not conditioning.action_dropout > 0:
        raise UserError(
            f"sampler.guidance={sampler.guidance}: guidance needs a model trained with actions withheld now and then; set "
            f"conditioning.action_dropout above 0 (such as 0.1), or leave sampler.guidance at 1"
        )


def check_past_noise(sampler: Sampler, conditioning: ConditioningConfig) -> None:
    """Refuses noise on past frames in sampling that does not fit the training. Raises UserError."""
    level, trained = getattr(sampler, "s_cond", 0.0), conditioning.past_noise == "training"
    if level > 0 and not trained:
        raise UserError(
            f"sampler.s_cond={level:g}: noise on past frames needs a model trained with it; set conditioning.past_noise=training, or leave "
            f"sampler.s_cond at 0"
        )
    if trained and not level > 0:
        raise UserError(
            "sampler.s_cond=0: the model was trained with noise on its past frames (conditioning.past_noise=training) and "
            "receives its level; set sampler.s_cond above 0, such as 0.005 (the authors)"
        )


def check_streams(heads: HeadsConfig, streams: int) -> None:
    """Refuses sampling in groups if heads read the features of all rows at the last call of sampling. Raises UserError."""
    if heads.reads == "last" and streams > 1:
        raise UserError(
            f"execution.sampling_streams={streams}: network.heads.reads=last reads the last call of all games together; use 1, or "
            "network.heads.reads=extra"
        )


def check_separate(heads: HeadsConfig, spec: WorldSpec) -> None:
    """Refuses a separate network of rewards and ends for games whose frames are not square, or whose actions are not Discrete. Raises
    UserError."""
    if spec.actions.kind != "Discrete" or spec.frames.height != spec.frames.width:
        raise UserError(
            f"network.heads.reads={heads.reads}: that network needs square frames and Discrete actions, but the game has {spec.frames} "
            f"and {spec.actions}; use network.heads.reads=last"
        )
    check_reward_end(heads.lstm, spec.frames.height)


def _check_conditioning(network: NetworkConfig, conditioning: ConditioningConfig) -> None:
    for key, name, known in (
        ("frames", conditioning.frames, FRAME_CONDITIONINGS),
        ("actions", conditioning.actions, ACTION_CONDITIONINGS),
    ):
        if name not in known:
            raise UserError(f"conditioning.{key}={name!r}: {nearest(name, known)}")
        if not isinstance(known[name], ConditioningOption):
            raise UserError(
                f"conditioning.{key}={name}: it is registered as {known[name]!r}, which does not state its cost; register a "
                f"ConditioningOption of its class and its cost (docs/extending.md)"
            )
    if conditioning.action_dropout > 0 and conditioning.actions == "none":
        raise UserError(
            f"conditioning.action_dropout={conditioning.action_dropout}: conditioning.actions=none gives the network no actions that could "
            f"be withheld; choose another option, or leave action_dropout at 0"
        )
    if conditioning.past_noise != "none" and conditioning.frame_noise > 0:
        raise UserError(
            f"conditioning.past_noise={conditioning.past_noise}: conditioning.frame_noise={conditioning.frame_noise:g} is another noise on "
            f"the same frames; leave one of them at its neutral value (none, 0)"
        )
    if not attends(conditioning):
        return
    levels = len(network.channels)
    for field in ("history_depths", "history_channels", "attended_levels"):
        given = getattr(conditioning, field)
        if len(given) != levels:
            raise UserError(f"conditioning.{field} has {len(given)}: it needs one entry a level, and network.channels has {levels}")
    if not any(conditioning.attended_levels):
        raise UserError(
            f"conditioning.attended_levels={list(conditioning.attended_levels)}: conditioning.frames={conditioning.frames} attends at one "
            f"level at least"
        )
    for width in history_network(network, conditioning).channels:
        if width % num_groups(width):
            raise UserError(
                f"conditioning.history_channels={list(conditioning.history_channels)}: a block is {width} wide, not divisible by its "
                f"{num_groups(width)} groups"
            )


def reward_end_stages(config: RewardEndConfig) -> list[list[Block]]:
    """Residual blocks of each stage of the reward/end model. The last stage has its own blocks, always with attention.

    All stages except the first and the last begin by halving the resolution, with the width of the previous stage.
    """
    stages = []
    for number, (depth, width) in enumerate(zip(config.depths, config.channels, strict=True)):
        before = config.channels[max(0, number - 1)]
        stages.append([Block(before if i == 0 else width, width, config.attention[number]) for i in range(depth)])
    return [*stages, [Block(config.channels[-1], config.channels[-1], True)] * NUM_MIDDLE_BLOCKS]


def reward_end_sizes(config: RewardEndConfig, frames: FrameSpec) -> list[FrameSpec]:
    """A frame's size in each stage of the reward/end model: halved and rounded up, as by a convolution of stride 2."""
    sizes = [frames]
    for _ in config.channels[1:]:
        sizes.append(FrameSpec(-(-sizes[-1].height // 2), -(-sizes[-1].width // 2)))
    return [*sizes, sizes[-1]]


def reward_end_features(config: RewardEndConfig, frames: FrameSpec) -> int:
    """Input width of the reward/end model's LSTM."""
    return config.channels[-1] * reward_end_sizes(config, frames)[-1].pixels


def actor_critic_sizes(config: ActorCriticConfig, frames: FrameSpec) -> list[FrameSpec]:
    """A frame's size in each stage of the actor-critic, and after the last: halved and rounded down by each max-pooling."""
    sizes = [frames]
    for down in config.down:
        sizes.append(FrameSpec(sizes[-1].height // 2, sizes[-1].width // 2) if down else sizes[-1])
    return sizes


def actor_critic_features(config: ActorCriticConfig, frames: FrameSpec) -> int:
    """Input width of the actor-critic's LSTM cell."""
    return config.channels[-1] * actor_critic_sizes(config, frames)[-1].pixels


def _same_length(group: str, part: str, **fields: tuple[object, ...]) -> None:
    if len({len(field) for field in fields.values()}) > 1:
        shown = ", ".join(f"{group}.{name} has {len(field)}" for name, field in fields.items())
        raise UserError(f"{', '.join(fields)} need one entry a {part}: {shown}")


def check_reward_end(config: RewardEndConfig, frame_size: int) -> None:
    """Refuses a reward/end model that cannot be built for frames of this side. Raises UserError with the field."""
    _same_length("reward_end", "stage", depths=config.depths, channels=config.channels, attention=config.attention)
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
    """Refuses an actor-critic that cannot be built for frames of this side. Raises UserError with the field."""
    _same_length("actor_critic", "stage", channels=config.channels, down=config.down)
    for width in config.channels:
        if width % num_groups(width):
            raise UserError(
                f"actor_critic.channels={config.channels}: a stage is {width} wide, not divisible by its {num_groups(width)} groups"
            )
    if actor_critic_sizes(config, FrameSpec.square(frame_size))[-1].pixels < 1:
        raise UserError(
            f"actor_critic.down={config.down}: {sum(config.down)} max-poolings are too many for a frame of side {frame_size}; "
            f"use fewer of them or a larger env.frame_size"
        )
