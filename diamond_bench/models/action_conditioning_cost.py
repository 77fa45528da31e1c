"""The cost of action_conditioning.py, without torch."""

from diamond_bench.config import ConditioningConfig, NetworkConfig
from diamond_bench.models.cost import ConditioningCost, Cost, embedding, linear
from diamond_bench.models.shape import action_rows, action_width, active_bits
from diamond_bench.spaces import ActionSpec, FrameSpec


def _table(network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec) -> Cost:
    """Reading rows costs nothing. The numbers of a Box are multiplied by its rows."""
    width = action_width(network, conditioning)
    products = 2.0 * conditioning.num_frames * len(actions.sizes) * width if actions.kind == "Box" else 0.0
    return embedding(action_rows(conditioning, actions.width), width) + Cost(0, products)


def embedded(network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, frames: FrameSpec) -> ConditioningCost:
    """`EmbeddedActions`."""
    width = action_width(network, conditioning)
    projection = linear(conditioning.num_frames * width, network.cond_channels) if conditioning.action_width else Cost()
    return ConditioningCost(_table(network, conditioning, actions) + projection)


def bits(network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, frames: FrameSpec) -> ConditioningCost:
    """`ActiveBits`. Only its number of rows differs from `EmbeddedActions`."""
    width, fewer = action_width(network, conditioning), actions.width - sum(active_bits(actions))
    return ConditioningCost(embedded(network, conditioning, actions, frames).own + embedding(-fewer, width))


def planes(network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, frames: FrameSpec) -> ConditioningCost:
    """`ActionPlanes`."""
    width = action_width(network, conditioning)
    return ConditioningCost(_table(network, conditioning, actions), conditioning.num_frames * width)


def none(network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, frames: FrameSpec) -> ConditioningCost:
    """`NoActions`."""
    return ConditioningCost()
