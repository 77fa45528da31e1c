"""The cost of `train_inverse_dynamics`."""

from diamond_bench.costs import MAX_ACTIONS, frames_of
from diamond_bench.models.cost import Cost
from diamond_bench.models.inverse_dynamics_cost import inverse_dynamics_cost
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.cost import Arithmetic, Checkpoint, Inputs, JobCost
from diamond_bench.store.kinds import TrainInverseDynamics


def _network(config: TrainInverseDynamics, frames: FrameSpec) -> Cost:
    return inverse_dynamics_cost(config.inverse_dynamics.channels, frames, MAX_ACTIONS.width)


def training_flops(config: TrainInverseDynamics, frames: FrameSpec) -> float:
    """FLOP of all updates. A backward pass counts as two forward passes."""
    return 3 * _network(config, frames).flops * config.inverse_dynamics.batch_size * config.inverse_dynamics.num_steps


def _arithmetic(config: TrainInverseDynamics, inputs: Inputs) -> Arithmetic:
    channels, execution = config.inverse_dynamics.channels, config.execution
    return Arithmetic(f"{channels} channels", channels, execution.precision, execution.device)


COST = JobCost(
    work=lambda config, inputs: training_flops(config, frames_of(inputs["dataset"])),
    arithmetic=_arithmetic,
    disk=lambda config, inputs: 4.0 * _network(config, frames_of(inputs["dataset"])).parameters,
    checkpoint=lambda config: Checkpoint(
        "inverse_dynamics.checkpoint_every", config.inverse_dynamics.checkpoint_every, config.inverse_dynamics.num_steps
    ),
)
