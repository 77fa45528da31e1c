"""World models of any family, chosen by a config or a folder."""

from pathlib import Path
from typing import Any

import torch

from diamond_bench.config import WorldSettings, imported, world_family
from diamond_bench.models.precision import Precision
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.worlds.contract import RecordedPlay, TrainedWorld, WorldModel
from diamond_bench.worlds.files import family_in, read_description


def build_world_model(described: Any, spec: WorldSpec, precision: Precision = "fp32", device: torch.device | str = "cpu") -> TrainedWorld:
    """A world model with fresh weights, drawn from torch's global CPU generator whatever the device.

    `described`: the config of a training, or another object with diamond's settings (objective, conditioning, network). Raises UserError if
    the settings do not fit together.
    """
    settings: WorldSettings | None = getattr(described, "family", None)
    world: TrainedWorld = imported(world_family(settings).build)(settings or described, spec, precision, device)
    return world


def load_world_model(
    folder: Path,
    frames: FrameSpec,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
    actions: ActionSpec | None = None,
) -> TrainedWorld:
    """Loads the world model saved in `folder`. `actions`: None is Discrete, with the number that the folder states.

    Raises UserError with the name of a file that is missing, damaged or does not fit.
    """
    family = world_family(read_description(folder, family_in))
    world: TrainedWorld = imported(family.load)(folder, frames, precision, device, actions)
    return world


def open_world(family: WorldSettings, spec: WorldSpec, device: torch.device, play: RecordedPlay | None = None) -> WorldModel:
    """A world of a family that is not trained. `play`: the recorded play that imagination starts from, for families that replay it.

    Raises UserError if the family cannot be used with them.
    """
    world: WorldModel = imported(world_family(family).open)(family, spec, device, play)
    return world
