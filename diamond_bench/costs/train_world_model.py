"""The cost of `train_world_model`."""

from dataclasses import replace

from diamond_bench.costs import ADAM, frames_of
from diamond_bench.costs.world_model import arithmetic, parameters, update_flops
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.cost import Arithmetic, Checkpoint, Inputs, JobCost
from diamond_bench.store.kinds import TrainWorldModel


def training_flops(config: TrainWorldModel, frames: FrameSpec) -> float:
    """FLOP of all updates."""
    return update_flops(config, frames) * config.training.num_steps


def _disk(config: TrainWorldModel, inputs: Inputs) -> float:
    """A model per milestone and two checkpoints, each with averaged weights, if there are any."""
    averages, weights = int(config.training.ema is not None), parameters(config, frames_of(inputs["dataset"]))
    return 4.0 * weights * (len(config.training.milestones) * (1 + averages) + 2 * (ADAM + averages))


def _arithmetic(config: TrainWorldModel) -> Arithmetic:
    alone, processes = arithmetic(config, config.execution), config.execution.num_processes
    return alone if processes == 1 else replace(alone, network=f"{alone.network} on {processes} processes")


COST = JobCost(
    work=lambda config, inputs: training_flops(config, frames_of(inputs["dataset"])),
    arithmetic=lambda config, inputs: _arithmetic(config),
    disk=_disk,
    checkpoint=lambda config: Checkpoint("training.checkpoint_every", config.training.checkpoint_every, config.training.num_steps),
    gpus=lambda config: config.execution.num_processes,
)
