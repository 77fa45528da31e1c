"""What a world model costs. Every kind of job that trains or runs one asks here, so another kind of world model is added here."""

import functools
import json
from typing import Protocol

from diamond_bench.config import ConditioningConfig, ExecutionConfig, NetworkConfig, Sampler, WorldSettings, world_family
from diamond_bench.costs import MOST_ACTIONS
from diamond_bench.diffusion.schedules import nfe
from diamond_bench.models.cost import Cost
from diamond_bench.models.denoiser_cost import denoiser_cost
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.cost import Arithmetic
from diamond_bench.store.kinds import ImportAgent, TrainAgent, TrainWorldModel
from diamond_bench.typed import identity_fields


class Described(Protocol):
    """What describes a world model: the config of a training, or what is stored with its weights."""

    @property
    def network(self) -> NetworkConfig: ...
    @property
    def conditioning(self) -> ConditioningConfig: ...


MadeBy = Described | ImportAgent
"""An imported agent's world model is assumed to have the paper's size."""
World = MadeBy | WorldSettings
"""Which world model: a trained one, or the settings of a family that is not trained."""
_ANY = FrameSpec.square(64)
"""The number of parameters does not depend on the frames' size."""


def frame_flops(world: World, sampler: Sampler, frames: FrameSpec) -> float:
    """FLOP to imagine one frame; 0 where the family has no network."""
    if isinstance(world, WorldSettings):
        return world_family(world).cost(world, frames).flops_per_frame
    return nfe(sampler) * call_flops(world, frames)


def update_flops(made_by: TrainWorldModel | TrainAgent, frames: FrameSpec) -> float:
    """FLOP of one update: a forward and a backward pass, which counts as two, for each predicted frame of the batch."""
    terms = made_by.training.num_autoregressive_steps + 1
    return 3 * call_flops(made_by, frames) * terms * made_by.training.batch_size


def call_flops(made_by: MadeBy, frames: FrameSpec) -> float:
    """FLOP of one forward pass of the network for one row."""
    return _network_cost(made_by, frames).flops


def parameters(made_by: MadeBy) -> int:
    """Trained parameters."""
    return _network_cost(made_by, _ANY).parameters


def arithmetic(world: World, execution: ExecutionConfig) -> Arithmetic:
    """What sets the speed of a job that trains or runs the world model, executed as `execution` asks."""
    if isinstance(world, WorldSettings):
        return Arithmetic()
    network = _trained(world).network
    return Arithmetic(_name(network), sum(network.channels) / len(network.channels), execution.precision, execution.device)


@functools.cache
def _name(network: NetworkConfig) -> str:
    return json.dumps(identity_fields(network), sort_keys=True)


def _network_cost(made_by: MadeBy, frames: FrameSpec) -> Cost:
    trained = _trained(made_by)
    return _denoiser_cost(trained.network, trained.conditioning, frames)


@functools.cache
def _denoiser_cost(network: NetworkConfig, conditioning: ConditioningConfig, frames: FrameSpec) -> Cost:
    return denoiser_cost(network, conditioning, MOST_ACTIONS, frames)


def _trained(made_by: MadeBy) -> Described:
    return TrainAgent(made_by.game, 0) if isinstance(made_by, ImportAgent) else made_by
