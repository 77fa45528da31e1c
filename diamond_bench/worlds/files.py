"""The two files of a saved world model: its weights, and the description from which it is built again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diamond_bench.config import WorldSettings, imported, world_family
from diamond_bench.errors import UserError
from diamond_bench.models.precision import Precision
from diamond_bench.reading import read_json
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.typed import build, to_plain
from diamond_bench.worlds.contract import TrainedWorld

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
_MAX_DESCRIPTION = 1_000_000
"""Maximum size of model.json in bytes. It has about 2,000."""
T = TypeVar("T")


@dataclass(frozen=True)
class _Settings:
    family: WorldSettings


def write_files(folder: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Writes weights and description into an existing folder. Each file appears whole or not at all."""
    weights, described = folder / WEIGHTS_FILE, folder / DESCRIPTION_FILE
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights.with_suffix(".tmp"))
    weights.with_suffix(".tmp").replace(weights)
    described.with_suffix(".tmp").write_text(json.dumps(description, indent=1) + "\n")
    described.with_suffix(".tmp").replace(described)


def read_description(folder: Path, make: Callable[[dict[str, Any]], T]) -> T:
    """Applies `make` to the content of a folder's model.json. Raises UserError with the file's name if it is missing, damaged or does not
    fit."""
    return _read(folder / DESCRIPTION_FILE, lambda file: make(read_json(file, _MAX_DESCRIPTION)))


def load_weights(folder: Path, network: nn.Module) -> None:
    """Loads a folder's weights. Raises UserError with the file's name if it is missing, damaged or does not fit the network."""
    state = _read(folder / WEIGHTS_FILE, load_file)
    expected = network.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} != {name: tensor.shape for name, tensor in expected.items()}:
        raise UserError(f"{folder / WEIGHTS_FILE}: its tensors are not those of the network that {DESCRIPTION_FILE} describes")
    network.load_state_dict(state)


def family_in(description: Mapping[str, Any]) -> WorldSettings | None:
    """The settings of the family that model.json names. None if it names none, which means diamond. Raises UserError for an unknown one."""
    return build(_Settings, {"family": description["family"]}).family if "family" in description else None


def save_world(folder: Path, settings: WorldSettings, spec: WorldSpec, networks: Mapping[str, nn.Module]) -> None:
    """Saves a world of any family whose learned state lies in its networks. `load_world` reads it."""
    predicted = {name: True for name in ("rewards", "ends") if getattr(spec, name)}
    described = {"family": to_plain(settings), "frames": list(spec.frames.sides), "actions": spec.actions.to_plain(), **predicted}
    write_files(folder, nn.ModuleDict(dict(networks)).state_dict(), described)


def described_world(folder: Path) -> tuple[WorldSettings | None, WorldSpec]:
    """Family and spaces of the world that `save_world` wrote, without its weights. Raises UserError, see `read_description`."""

    def described(plain: dict[str, Any]) -> tuple[WorldSettings | None, WorldSpec]:
        predicted = {name: bool(plain.get(name, False)) for name in ("rewards", "ends")}
        spec = WorldSpec(FrameSpec(*plain["frames"]), ActionSpec.from_plain(plain["actions"]), **predicted)
        return family_in(plain), spec

    return read_description(folder, described)


def load_world(
    folder: Path,
    frames: FrameSpec,
    precision: Precision,
    device: torch.device | str,
    actions: ActionSpec | None,
    parts: Callable[[Any], Mapping[str, nn.Module]] = lambda world: world.networks,
) -> TrainedWorld:
    """Loads the world that `save_world` wrote.

    Args:
        folder: holds the two files.
        frames: their size in the game.
        precision: see `WorldFamily.build`.
        device: see `WorldFamily.build`.
        actions: those of the game, or None to take those of the folder.
        parts: parts(world) -> the modules that `save_world` received.

    Raises UserError with the name of a file that is missing, damaged or does not fit.
    """
    settings, spec = described_world(folder)
    if spec.frames != frames or (actions is not None and actions.sizes != spec.actions.sizes):
        raise UserError(f"{folder}: a world model of frames {spec.frames} and actions {spec.actions}, but the game has {frames}, {actions}")
    world: TrainedWorld = imported(world_family(settings).build)(settings, spec, precision, device)
    load_weights(folder, nn.ModuleDict(dict(parts(world))))
    return world


def _read(file: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; a world model is {DESCRIPTION_FILE} and {WEIGHTS_FILE} in one folder") from None
    except (OSError, UserError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"{file}: damaged or invalid: {error}") from error
