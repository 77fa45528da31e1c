"""Cascades in the format of the authors' CS:GO checkpoint: one flat state dict, in which the names of both stages have a prefix.

The format contains only tensors. The sizes of the networks are derived from the tensors' shapes and then checked against every tensor.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diamond_bench.config import NetworkConfig
from diamond_bench.envs import first_person
from diamond_bench.errors import UserError
from diamond_bench.models.authors_checkpoint import (
    Shapes,
    denoiser_sizes,
    refuse_conditioning,
    refuse_meaning,
    shape_of,
    stages_of,
)
from diamond_bench.models.authors_names import authors_names
from diamond_bench.models.shape import IMAGE_CHANNELS, check_network
from diamond_bench.models.tensor_file import Places, matched, read_state_dict, require_finite
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.worlds.cascade import CSGO_OBJECTIVE, Cascade, LowResolution, Upsampler
from diamond_bench.worlds.cascade.world import CascadeWorld, build_world

PREFIXES = {"denoiser": "denoiser.inner_model.", "upsampler": "upsampler.inner_model."}
"""The prefix of the names of each network, in the order of the authors' file."""
CSGO_ACTIONS = first_person.ACTIONS
"""The actions of the CS:GO dataset: 13 keys and buttons, and the two choices of the mouse. They are 51 bits."""


def read_cascade(file: Path, frames: FrameSpec, factor: int) -> CascadeWorld:
    """The cascade in a checkpoint file, to be saved. Only tensors are unpickled, and no code of the file is run.

    Buffers that are not saved stay on torch's meta device, so it plays only after it was loaded again. `frames`, at full resolution, and
    `factor` are not in the file. The objectives have the constants of the authors' CS:GO model. Raises UserError with the file's name and
    the problem: the file cannot be read, or a tensor is missing, unknown, misshapen or not finite.
    """
    state, _ = read_state_dict(file)
    try:
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        with torch.device("meta"):
            world = build_world(*_described(shapes, frames, factor), device="meta")
        states = matched(state, _places(world))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    require_finite(file, state)
    for component, network in world.networks.items():
        network.load_state_dict(states[component], assign=True)
    return world


def cascade_state(world: CascadeWorld) -> dict[str, Tensor]:
    """The authors' state dict of a cascade, in the order of their file. The tensors are contiguous and on the CPU.

    Raises UserError if the format cannot express the cascade.
    """
    settings = world.settings
    refuse_conditioning("cascade", "family.inner.conditioning", settings.inner.conditioning, LowResolution().conditioning)
    refuse_conditioning("cascade", "family.upsampler", settings.upsampler.conditioning, Upsampler().conditioning)
    for stage, objective in (("inner", settings.inner.objective), ("upsampler", settings.upsampler.objective)):
        refuse_meaning("cascade", f"family.{stage}.objective", objective, CSGO_OBJECTIVE)
    places = _places(world)
    states = {component: network.state_dict() for component, network in world.networks.items()}
    state = {
        name: states[component][ours].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, (component, ours, _) in places.items()
    }
    try:
        found, _ = _described({name: tuple(tensor.shape) for name, tensor in state.items()}, world.spec.frames, settings.factor)
    except UserError as error:
        raise UserError(f"this cascade cannot be exported: read back, {error}") from None
    for key, here, back in (
        ("low_resolution_rounding", settings.low_resolution_rounding, found.low_resolution_rounding),
        ("inner.conditioning.num_frames", settings.inner.conditioning.num_frames, found.inner.conditioning.num_frames),
        ("inner.network", settings.inner.network, found.inner.network),
        ("upsampler.network", settings.upsampler.network, found.upsampler.network),
    ):
        if here != back:
            raise UserError(
                f"this cascade cannot be exported: the authors' format has no place for family.{key}={here}; read back it would be {back}"
            )
    return state


def _described(shapes: Shapes, frames: FrameSpec, factor: int) -> tuple[Cascade, WorldSpec]:
    """The cascade whose tensors have these shapes, derived from the shapes that determine sizes."""
    for component, prefix in PREFIXES.items():
        if not any(name.startswith(prefix) for name in shapes):
            raise UserError(f"no {component} in it (names under {prefix!r})")
    num_frames, network, bits = denoiser_sizes(shapes)
    inner = LowResolution(network=network)
    inner = replace(inner, conditioning=replace(inner.conditioning, num_frames=num_frames))
    settings = Cascade(factor=factor, low_resolution_rounding="truncate", inner=inner, upsampler=_upsampler(shapes))
    check_network(settings.upsampler.network, settings.upsampler.conditioning)
    of_csgo = sum(1 if size == 2 else size for size in CSGO_ACTIONS.sizes)
    actions = CSGO_ACTIONS if bits == of_csgo else ActionSpec.columns((2,) * bits)
    return settings, WorldSpec(frames, actions, rewards=False, ends=False)


def _upsampler(shapes: Shapes) -> Upsampler:
    prefix = PREFIXES["upsampler"]
    cond = shape_of(shapes, f"{prefix}cond_proj.0.weight", 2)[0]
    stacked = shape_of(shapes, f"{prefix}conv_in.weight", 4)[1]
    num_frames, rest = divmod(stacked - 2 * IMAGE_CHANNELS, IMAGE_CHANNELS)
    if num_frames < 1 or rest:
        raise UserError(
            f"tensor {prefix + 'conv_in.weight'!r} has {stacked} input channels; expected three for each past frame, the enlarged frame "
            "and the noisy one"
        )
    return Upsampler(network=NetworkConfig(*stages_of(shapes, f"{prefix}unet.d_blocks."), cond), num_frames=num_frames, batch_size=4)


def _places(world: CascadeWorld) -> Places[str]:
    """The network, the name there and the shape of each of the authors' tensors, in the order of their file."""
    found: Places[str] = {}
    for component, network in world.networks.items():
        expected: Mapping[str, Tensor] = network.state_dict()
        for theirs, ours in authors_names("denoiser", expected).items():
            found[PREFIXES[component] + theirs] = (component, ours, tuple(expected[ours].shape))
    return found
