"""What a world model costs. Every kind of job that trains or runs one asks here, and it asks the family."""

import functools
import json
from typing import Any, Protocol

from diamond_bench.config import ConditioningConfig, ExecutionConfig, NetworkConfig, OdeSampler, Sampler, WorldSettings, world_family
from diamond_bench.config.worlds import WorldCost, WorldFamily
from diamond_bench.costs import MAX_ACTIONS
from diamond_bench.spaces import FrameSpec, WorldSpec
from diamond_bench.store.cost import Arithmetic
from diamond_bench.store.kinds import ImportAgent, TrainAgent, TrainWorldModel
from diamond_bench.typed import identity_fields


class HasNetwork(Protocol):
    """What describes a world model: the config of a training, or what is stored with its weights."""

    @property
    def network(self) -> NetworkConfig: ...
    @property
    def conditioning(self) -> ConditioningConfig: ...


Producer = HasNetwork | ImportAgent
"""An imported agent's world model is assumed to have the paper's size."""
World = Producer | WorldSettings
"""Which world model: a trained one, or the settings of a family."""
_ANY = FrameSpec.square(64)
"""The number of parameters does not depend on the frames' size."""


def frame_flops(world: World, sampler: Sampler, frames: FrameSpec) -> float:
    """FLOP to imagine one frame; 0 where the family has no network."""
    return _cost(world, sampler, frames).flops_per_frame


def update_flops(producer: TrainWorldModel | TrainAgent, frames: FrameSpec) -> float:
    """FLOP of one update of each network of the world model: a forward and a backward pass, which counts as two."""
    family, settings = _family(producer)
    return family.update_flops(settings, WorldSpec(frames, MAX_ACTIONS), producer.training)


def call_flops(producer: Producer, frames: FrameSpec) -> float:
    """FLOP of one forward pass of the network for one row."""
    cost = _cost(producer, OdeSampler(), frames)
    return cost.flops_per_frame / cost.calls_per_frame


def parameters(producer: Producer) -> int:
    """Trained parameters."""
    return _cost(producer, OdeSampler(), _ANY).parameters


def arithmetic(world: World, execution: ExecutionConfig) -> Arithmetic:
    """What sets the speed of a job that trains or runs the world model, executed as `execution` asks."""
    family, settings = _family(world)
    if not family.trained:
        return Arithmetic()
    if isinstance(settings, WorldSettings):
        return Arithmetic(_name(settings), precision=execution.precision, device=execution.device)
    network = settings.network
    return Arithmetic(_name(network), sum(network.channels) / len(network.channels), execution.precision, execution.device)


@functools.cache
def _name(network: NetworkConfig | WorldSettings) -> str:
    return json.dumps(identity_fields(network), sort_keys=True)


def _cost(world: World, sampler: Sampler, frames: FrameSpec) -> WorldCost:
    family, settings = _family(world)
    return family.cost(settings, WorldSpec(frames, MAX_ACTIONS), sampler)


def _family(world: World) -> tuple[WorldFamily, Any]:
    """The family of a world model, and the settings that the family's functions take."""
    if isinstance(world, WorldSettings):
        return world_family(world), world
    described = TrainAgent(world.game, 0) if isinstance(world, ImportAgent) else world
    settings: WorldSettings | None = getattr(described, "family", None)
    return world_family(settings), settings or described
