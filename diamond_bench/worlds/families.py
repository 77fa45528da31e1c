"""World models by what a config or a folder says, for those who know no family."""

from pathlib import Path

import torch

from diamond_bench.config import ConditioningConfig, NetworkConfig, Objective, WorldSettings, imported, world_family
from diamond_bench.models.precision import Precision
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.worlds.contract import RecordedPlay, TrainedWorld, WorldModel
from diamond_bench.worlds.diamond.world import Description, build_diamond, load_diamond


def build_world_model(
    objective: Objective,
    conditioning: ConditioningConfig,
    network: NetworkConfig,
    actions: ActionSpec | int,
    frames: FrameSpec,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
) -> TrainedWorld:
    """A world model with fresh weights, drawn from torch's global CPU generator whatever the device.

    `actions`: a number n stands for Discrete(n). Raises UserError when the network's widths do not fit together.
    """
    spec = ActionSpec.discrete(actions) if isinstance(actions, int) else actions
    return build_diamond(Description(objective, conditioning, network, spec.width), frames, precision, device, spec)


def load_world_model(
    folder: Path,
    frames: FrameSpec,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
    actions: ActionSpec | None = None,
) -> TrainedWorld:
    """The world model saved in `folder`. `actions`: None is Discrete, of the number that the folder says.

    Raises UserError naming the file that is missing, damaged or does not fit.
    """
    return load_diamond(folder, frames, precision, device, actions)


def open_world(family: WorldSettings, spec: WorldSpec, device: torch.device, play: RecordedPlay | None = None) -> WorldModel:
    """A world of a family that is not trained. `play`: the recorded play that imagination starts from, for families that replay it.

    Raises UserError where the family cannot be used with them.
    """
    world: WorldModel = imported(world_family(family).open)(family, spec, device, play)
    return world
