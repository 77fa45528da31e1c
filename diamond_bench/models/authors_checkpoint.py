"""Whole agents in the format of the authors' published checkpoints: one state dict of three networks (golden README 3.7).

The format contains only tensors. Sizes are derived from the tensors' shapes and then checked against every tensor: the networks with these
sizes are built on torch's meta device, without memory, and all names and shapes must match.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from diamond_bench.config import ActorCriticConfig, ConditioningConfig, FactoredObjective, NetworkConfig, RewardEndConfig
from diamond_bench.errors import UserError, nearest
from diamond_bench.models.actor_critic import ActorCritic
from diamond_bench.models.authors_names import PREFIXES, Component, authors_names
from diamond_bench.models.denoiser_network import DenoiserNetwork
from diamond_bench.models.description import AgentDescription
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.models.shape import IMAGE_CHANNELS, actor_critic_features, check_network, reward_end_features
from diamond_bench.models.tensor_file import Places, matched, read_state_dict, require_finite, write_state_dict
from diamond_bench.spaces import FrameSpec

States = dict[Component, dict[str, Tensor]]
"""State dicts of the three networks, with this package's names."""
FRAME_SIZES = range(16, 513)
"""Sides of frames that are tried, in pixels."""

WEIGHTS_MEANING = (
    "parameterization",
    "coordinate",
    "input_scaling",
    "noise_conditioning",
    "sigma_data",
    "sigma_offset_noise",
    "offset_noise",
    "rescale_past_frames",
)
"""Settings of an objective on which the meaning of the weights depends. Settings of the training are not among them."""

_CONDITIONING = ("frames", "actions", "action_width", "action_dropout", "frame_noise", "past_noise")
"""Settings of a conditioning that determine which tensors exist."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class AuthorsCheckpoint:
    """The content of a checkpoint file."""

    description: AgentDescription
    """Settings that a state dict does not contain (optimisers, losses, the objective's constants) have the paper's values."""
    states: States
    widened_from: str | None
    """The narrower type of some stored tensors ("float16"). They were cast to float32 without loss."""


def read_authors_checkpoint(file: Path, game: str = "", frame_size: int | None = None) -> AuthorsCheckpoint:
    """Reads the agent in a checkpoint file. Only tensors are unpickled, and no code of the file is run.

    `frame_size` is needed if the tensors fit frames of several sizes. The file does not contain the constants of its objective, so the
    description has the paper's. Raises UserError with the file's name and the problem: the file is absent, truncated or not a state dict,
    tensors are missing, unknown, misshapen, not finite or not floating point, or networks do not fit together.
    """
    state, widened_from = read_state_dict(file)
    try:
        description = _describe({name: tuple(tensor.shape) for name, tensor in state.items()}, game, frame_size)
        states = _sorted_out(state, description)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    require_finite(file, state)
    return AuthorsCheckpoint(description, states, widened_from)


class SupportsExport(Protocol):
    """An `Agent`."""

    @property
    def description(self) -> AgentDescription: ...
    @property
    def networks(self) -> dict[Component, nn.Module]: ...


def write_authors_checkpoint(agent: SupportsExport, file: Path) -> list[str]:
    """Writes an agent as a state dict in the authors' format, whole or not at all. Replaces an existing file.

    Returns the settings that the file does not contain, as "group.name=value". They matter only for further training. Raises UserError if
    the format cannot express the agent, or the file cannot be written.
    """
    state = authors_state(agent.description, {component: network.state_dict() for component, network in agent.networks.items()})
    write_state_dict(state, file)
    return lost_in_export(agent.description)


def authors_state(description: AgentDescription, states: Mapping[Component, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The authors' state dict of an agent, in the order of their files. The tensors are contiguous, on the CPU, and share no memory.

    Raises UserError if the format cannot express the agent.
    """
    _refuse_unexportable(description)
    state = {
        PREFIXES[component] + theirs: states[component][ours].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for component in PREFIXES
        for theirs, ours in authors_names(component, states[component], description.actor_critic.down).items()
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        read_back = _describe(shapes, description.game, description.frame_size)
    except UserError as error:
        raise UserError(f"this agent cannot be exported: read back, {error}") from None
    for key, ours, back in (
        ("conditioning.num_frames", description.conditioning.num_frames, read_back.conditioning.num_frames),
        ("network", description.network, read_back.network),
    ):
        if ours != back:
            raise UserError(
                f"this agent cannot be exported: the authors' format has no place for {key}={ours}; read back it would be {back}"
            )
    return state


def lost_in_export(description: AgentDescription) -> list[str]:
    """Settings of an agent that its export does not contain. They do not change what the agent does, only how it would be trained
    further."""
    plain = _authors_settings(description)
    return [
        f"{group}.{name}={value!r}"
        for group in ("objective", "reward_end", "actor_critic")
        for name, value in vars(getattr(description, group)).items()
        if value != getattr(getattr(plain, group), name)
    ]


def _authors_settings(description: AgentDescription) -> AgentDescription:
    """The agent with the paper's values for all settings that a state dict does not contain."""
    r, a = description.reward_end, description.actor_critic
    return replace(
        description,
        objective=FactoredObjective(),
        reward_end=RewardEndConfig(r.depths, r.channels, r.attention, r.cond_channels, r.lstm_dim),
        actor_critic=ActorCriticConfig(a.channels, a.down, a.lstm_dim),
    )


def _refuse_unexportable(description: AgentDescription) -> None:
    objective, conditioning = description.objective, description.conditioning
    if description.model_free:
        raise UserError("this agent cannot be exported: it is model-free, and the authors' format holds three networks")
    if description.family is not None:
        raise UserError(f"this agent cannot be exported: its world model is of family={description.family.name}, not diamond")
    refuse_conditioning("agent", "conditioning", conditioning, ConditioningConfig())
    refuse_meaning("agent", "objective", objective, FactoredObjective())


def refuse_conditioning(what: str, key: str, ours: ConditioningConfig, theirs: ConditioningConfig) -> None:
    """Raises UserError unless a conditioning has the tensors of `theirs`, for which the format has a place. `what`: what is exported.
    `key`: the group of the conditioning's settings."""
    for name in _CONDITIONING:
        if getattr(ours, name) != getattr(theirs, name):
            raise UserError(
                f"this {what} cannot be exported: the authors' format has no place for {key}.{name}={getattr(ours, name)!r}, "
                f"only for {getattr(theirs, name)!r}"
            )


def refuse_meaning(what: str, key: str, ours: FactoredObjective, theirs: FactoredObjective) -> None:
    """Raises UserError unless the weights of an objective mean what those of `theirs` mean. `what` and `key`: see
    `refuse_conditioning`."""
    for name in WEIGHTS_MEANING:
        if getattr(ours, name, None) != getattr(theirs, name):
            raise UserError(
                f"this {what} cannot be exported: {key}.{name}={getattr(ours, name, None)!r} determines what its weights mean, "
                f"and readers of the authors' format assume {getattr(theirs, name)!r}"
            )


def _describe(shapes: Shapes, game: str, frame_size: int | None) -> AgentDescription:
    """The agent whose tensors have these shapes, derived from the shapes that determine sizes. `_sorted_out` checks the others."""
    beginnings = sorted({name.split(".")[0] for name in shapes})
    for component, prefix in PREFIXES.items():
        if not any(name.startswith(prefix) for name in shapes):
            hint = "; this is a denoiser of the authors' DDPM branch alone, not an agent" if "noise_model" in beginnings else ""
            shown = ", ".join(beginnings[:8]) + (", ..." if len(beginnings) > 8 else "")
            raise UserError(f"no {component} in it (names under {prefix!r}); its names begin with {shown}{hint}")
    num_frames, network, num_actions = denoiser_sizes(shapes)
    for name in ("rew_end_model.act_emb.weight", "actor_critic.actor_linear.weight"):
        if shape_of(shapes, name, 2)[0] != num_actions:
            raise UserError(
                f"its networks do not fit together: {num_actions} actions in the denoiser, {shapes[name][0]} in tensor {name!r}"
            )
    reward_end = _reward_end(shapes)
    actor_critic, size = _actor_critic(shapes, reward_end, frame_size)
    return AgentDescription(
        FactoredObjective(),
        ConditioningConfig(num_frames),
        network,
        reward_end,
        actor_critic,
        num_actions,
        size,
        model_free=False,
        game=game,
    )


def shape_of(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor. Raises UserError if it is missing, or has another number of dimensions."""
    if name not in shapes:
        raise UserError(f"tensor {name!r} is missing: {nearest(name, shapes)}")
    shape = shapes[name]
    if len(shape) != dimensions or 0 in shape:
        raise UserError(f"tensor {name!r} has shape {list(shape)}; expected {dimensions} dimensions")
    return shape


def stages_of(shapes: Shapes, prefix: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    """Depth, width and attention of each stage of residual blocks with names prefix + "<stage>.resblocks.<block>.".

    Raises UserError."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,3})\.resblocks\.(\d{1,3})\.")
    found = {(int(m[1]), int(m[2])) for m in map(pattern.match, shapes) if m}
    stages = len({stage for stage, _ in found})
    depths = tuple(sum(1 for stage, _ in found if stage == s) for s in range(stages))
    if not stages or found != {(s, block) for s in range(stages) for block in range(depths[s])}:
        raise UserError(f"its residual blocks under {prefix!r} are not numbered through")
    channels = tuple(shape_of(shapes, f"{prefix}{s}.resblocks.0.conv1.weight", 4)[0] for s in range(stages))
    attention = tuple(f"{prefix}{s}.resblocks.0.attn.qkv_proj.weight" in shapes for s in range(stages))
    return depths, channels, attention


def denoiser_sizes(shapes: Shapes) -> tuple[int, NetworkConfig, int]:
    """Number of past frames, network and number of actions (or of their bits) of an authors' denoiser. Raises UserError."""
    prefix = PREFIXES["denoiser"]
    cond = shape_of(shapes, f"{prefix}cond_proj.0.weight", 2)[0]
    num_actions, width = shape_of(shapes, f"{prefix}act_emb.0.weight", 2)
    stacked = shape_of(shapes, f"{prefix}conv_in.weight", 4)[1]
    num_frames = cond // width
    if num_frames < 1 or num_frames * width != cond or stacked != (num_frames + 1) * IMAGE_CHANNELS:
        raise UserError(
            f"tensors {prefix + 'cond_proj.0.weight'!r}, {prefix + 'act_emb.0.weight'!r} and {prefix + 'conv_in.weight'!r} do not fit "
            f"together: a condition {cond} wide, {width} an action, {stacked} channels of frames, 3 each, one of them noisy"
        )
    depths, channels, attention = stages_of(shapes, f"{prefix}unet.d_blocks.")
    network = NetworkConfig(depths, channels, attention, cond)
    check_network(network, ConditioningConfig(num_frames))
    return num_frames, network, num_actions


def _reward_end(shapes: Shapes) -> RewardEndConfig:
    prefix = PREFIXES["rew_end_model"]
    depths, channels, attention = stages_of(shapes, f"{prefix}encoder.blocks.")
    if len(depths) < 2:
        raise UserError(f"its residual blocks under {prefix + 'encoder.blocks.'!r} have no stage before the last, of attention")
    cond, lstm_dim = shape_of(shapes, f"{prefix}act_emb.weight", 2)[1], shape_of(shapes, f"{prefix}lstm.weight_hh_l0", 2)[1]
    return RewardEndConfig(depths[:-1], channels[:-1], attention[:-1], cond, lstm_dim)


def _actor_critic(shapes: Shapes, reward_end: RewardEndConfig, frame_size: int | None) -> tuple[ActorCriticConfig, int]:
    """The actor-critic and the side of a frame, derived from the input widths of both LSTMs."""
    prefix = PREFIXES["actor_critic"]
    pattern = re.compile(re.escape(prefix) + r"encoder\.encoder\.(\d{1,3})\.f\.")
    places = sorted({int(m[1]) for m in map(pattern.match, shapes) if m})
    if not places or places[0] != 1 or any(b - a not in (1, 2) for a, b in pairwise(places)):
        raise UserError(f"its layers under {prefix + 'encoder.encoder.'!r} are not numbered as the authors do: blocks at {places}")
    channels = tuple(shape_of(shapes, f"{prefix}encoder.encoder.{place}.f.2.weight", 4)[0] for place in places)
    lstm_dim = shape_of(shapes, f"{prefix}lstm.weight_hh", 2)[1]
    fed = shape_of(shapes, f"{prefix}lstm.weight_ih", 2)[1]
    fed_reward_end = shape_of(shapes, f"{PREFIXES['rew_end_model']}lstm.weight_ih_l0", 2)[1]

    # A max-pooling has no tensors, only a place in the numbering, and the last one not even that. A numbering without a gap of 1 may come
    # from a writer who reserves a place for every stage, pooling or not. Then only the number of poolings is known, from the LSTM's width.
    gaps = [after - before for before, after in pairwise(places)]
    numbered = len(places) == 1 or 1 in gaps
    if numbered:
        poolings = [(*(gap == 2 for gap in gaps), last) for last in (True, False)]
    else:
        poolings = [(True,) * count + (False,) * (len(places) - count) for count in range(len(places), -1, -1)]
    sizes = [size for size in FRAME_SIZES if reward_end_features(reward_end, FrameSpec.square(size)) == fed_reward_end]
    fits = [
        (config, size)
        for down, size in product(poolings, sizes)
        if actor_critic_features(config := ActorCriticConfig(channels, down, lstm_dim), FrameSpec.square(size)) == fed
    ]
    possible = sorted({size for _, size in fits})
    if not possible:
        raise UserError(
            f"its LSTMs fit frames of no size: the reward/end model's is fed {fed_reward_end} numbers, the actor-critic's {fed}, "
            f"after {len(reward_end.channels) - 1} halvings to {reward_end.channels[-1]} channels and "
            f"{len(places)} stages, to {channels[-1]} channels"
        )
    if frame_size is not None and frame_size not in possible:
        raise UserError(f"its LSTMs fit frames of side {_listed(possible)}, not {frame_size}")
    fits = [(config, size) for config, size in fits if frame_size is None or size == frame_size]
    if len({size for _, size in fits}) > 1:
        raise UserError(f"its LSTMs fit frames of side {_listed(possible)}: choose one with frame_size")
    config, size = fits[0]
    if not numbered and not all(config.down):
        raise UserError(
            f"its tensors do not show which {sum(config.down)} of the {len(places)} stages of its actor-critic end in max-pooling; "
            f"only agents in which all do, or whose layers' numbering shows it, can be read"
        )
    return config, size


def _listed(sizes: list[int]) -> str:
    return " or ".join(map(str, sizes)) if len(sizes) < 4 else f"{sizes[0]}, {sizes[1]}, ... or {sizes[-1]}"


def _networks(description: AgentDescription) -> dict[Component, nn.Module]:
    """The three networks, without memory."""
    d = description
    with torch.device("meta"):
        return {
            "denoiser": DenoiserNetwork(d.network, d.conditioning, d.num_actions),
            "rew_end_model": RewardEndModel(d.reward_end, d.num_actions, d.frame_size),
            "actor_critic": ActorCritic(d.actor_critic, d.num_actions, d.frame_size),
        }


def _sorted_out(state: Mapping[str, Tensor], description: AgentDescription) -> States:
    """The state dicts of the three networks, after a check of all names and shapes."""
    places: Places[Component] = {}
    for component, network in _networks(description).items():
        expected = network.state_dict()
        for theirs, ours in authors_names(component, expected, description.actor_critic.down).items():
            places[PREFIXES[component] + theirs] = (component, ours, tuple(expected[ours].shape))
    return matched(state, places)
