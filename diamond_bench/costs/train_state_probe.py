"""The cost of `train_state_probe`."""

from diamond_bench.costs import frames_of
from diamond_bench.models.state_probe_cost import state_probe_cost
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.cost import Arithmetic, Checkpoint, Inputs, JobCost
from diamond_bench.store.kinds import TrainStateProbe

_OBJECTS = 3
"""Maximum number of objects of a game with a table (envs/ram_state.py). The cost hardly depends on it."""


def training_flops(config: TrainStateProbe, frames: FrameSpec, num_objects: int = _OBJECTS) -> float:
    """FLOP of all updates. A backward pass counts as two forward passes."""
    return 3 * state_probe_cost(num_objects, config.probe.channels, frames).flops * config.probe.batch_size * config.probe.num_steps


def _disk(config: TrainStateProbe, inputs: Inputs) -> float:
    return 4.0 * state_probe_cost(_OBJECTS, config.probe.channels, frames_of(inputs["dataset"])).parameters


def _arithmetic(config: TrainStateProbe, inputs: Inputs) -> Arithmetic:
    channels, execution = config.probe.channels, config.execution
    return Arithmetic(f"{channels} channels", channels, execution.precision, execution.device)


COST = JobCost(
    work=lambda config, inputs: training_flops(config, frames_of(inputs["dataset"])),
    arithmetic=_arithmetic,
    disk=_disk,
    checkpoint=lambda config: Checkpoint("probe.checkpoint_every", config.probe.checkpoint_every, config.probe.num_steps),
)
