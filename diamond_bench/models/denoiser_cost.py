"""The cost of denoiser_network.py, without torch, so that planning can show it before anything runs."""

from collections.abc import Iterable, Sequence

from diamond_bench.config import ACTION_CONDITIONINGS, FRAME_CONDITIONINGS, ConditioningConfig, NetworkConfig, imported
from diamond_bench.errors import UserError
from diamond_bench.models.cost import ConditioningCost, Cost, convolution, linear, norm, total, unet
from diamond_bench.models.shape import IMAGE_CHANNELS
from diamond_bench.spaces import ActionSpec, FrameSpec


def denoiser_cost(network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, frames: FrameSpec) -> Cost:
    """One forward pass of `DenoiserNetwork` for one frame, with the costs of its two registered conditionings."""
    ways = conditioning_costs(network, conditioning, actions, frames)
    width, cond = network.channels[0], network.cond_channels
    parts = [way.own for way in ways]
    parts += [linear(cond, cond)] * (3 if conditioning.frame_noise > 0 else 2)
    parts.append(convolution(sum(way.planes for way in ways) + IMAGE_CHANNELS, width, 3, frames.pixels))
    parts.append(unet(network, frames, *(joined(conditioning, [getattr(way, part) for way in ways]) for part in ("widths", "tokens"))))
    parts += [norm(width), convolution(width, IMAGE_CHANNELS, 3, frames.pixels)]
    return total(parts)


def conditioning_costs(
    network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, frames: FrameSpec
) -> list[ConditioningCost]:
    """The costs of the registered conditionings of past frames and of actions."""
    options = (FRAME_CONDITIONINGS[conditioning.frames], ACTION_CONDITIONINGS[conditioning.actions])
    return [imported(option.cost)(network, conditioning, actions, frames) for option in options]


def joined(conditioning: ConditioningConfig, ways: Iterable[Sequence[int]]) -> list[int]:
    """For each level of the U-Net, the value of the only conditioning that has tokens there. Raises UserError if both have."""
    given = [numbers for numbers in ways if numbers]
    if any(sum(number > 0 for number in level) > 1 for level in zip(*given, strict=True)):
        raise UserError(
            f"conditioning.frames={conditioning.frames} and conditioning.actions={conditioning.actions}: both have the U-Net attend to "
            f"them at the same level, which attends to one"
        )
    return [max(level) for level in zip(*given, strict=True)]
