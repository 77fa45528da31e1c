"""The cost of a world model, computed by its family. All kinds of jobs that train or run a world model use it."""

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
    """The description of a world model: the config of a training, or the description stored with its weights."""

    @property
    def network(self) -> NetworkConfig: ...
    @property
    def conditioning(self) -> ConditioningConfig: ...


Producer = HasNetwork | ImportAgent
"""The job that produced a world model. An imported agent's world model is assumed to have the paper's size."""
World = Producer | WorldSettings
"""A trained world model, or the settings of a family that is not trained."""


def frame_flops(world: World, sampler: Sampler, frames: FrameSpec) -> float:
    """FLOP to imagine one frame. 0 if the family has no network."""
    return _cost(world, sampler, frames).flops_per_frame


def frame_calls(world: World, sampler: Sampler, frames: FrameSpec) -> int:
    """Network calls to imagine one frame. 0 if the family has no network."""
    return _cost(world, sampler, frames).calls_per_frame


def start_flops(world: World, frames: FrameSpec) -> float:
    """FLOP to begin a game from real frames."""
    return _cost(world, OdeSampler(), frames).start_flops


def reconstruction_flops(world: World, frames: FrameSpec) -> float:
    """FLOP to encode a real frame and decode it. 0 if the family has no tokenizer."""
    return _cost(world, OdeSampler(), frames).reconstruction_flops


def state_bytes(world: World, frames: FrameSpec) -> int:
    """Maximum number of bytes of the state of one imagined game."""
    return _cost(world, OdeSampler(), frames).state_bytes


def update_flops(producer: TrainWorldModel | TrainAgent, frames: FrameSpec) -> float:
    """FLOP of one update of each network of the world model: a forward pass and a backward pass, which counts as two."""
    family, settings = _family(producer)
    return family.update_flops(settings, WorldSpec(frames, MAX_ACTIONS), producer.training)


def call_flops(producer: Producer, frames: FrameSpec) -> float:
    """FLOP of one forward pass of the network for one row."""
    cost = _cost(producer, OdeSampler(), frames)
    return cost.flops_per_frame / cost.calls_per_frame


def parameters(producer: Producer, frames: FrameSpec) -> int:
    """Trained parameters."""
    return _cost(producer, OdeSampler(), frames).parameters


def arithmetic(world: World, execution: ExecutionConfig) -> Arithmetic:
    """The network and the execution that determine the speed of a job that trains or runs the world model."""
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
    """The family of a world model, and the settings for the family's functions."""
    if isinstance(world, WorldSettings):
        return world_family(world), world
    described = TrainAgent(world.game, 0) if isinstance(world, ImportAgent) else world
    settings: WorldSettings | None = getattr(described, "family", None)
    return world_family(settings), settings or described
