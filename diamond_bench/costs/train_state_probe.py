"""The cost of `train_state_probe`."""

from diamond_bench.costs import frames_of
from diamond_bench.envs.games import truth
from diamond_bench.models.cost import Cost
from diamond_bench.models.pose_probe_cost import pose_probe_cost
from diamond_bench.models.state_probe_cost import state_probe_cost
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.cost import Arithmetic, Checkpoint, Inputs, JobCost
from diamond_bench.store.kinds import TrainStateProbe

_OBJECTS = 3
"""Maximum number of objects of a game with a table (envs/ram_state.py). The cost hardly depends on it."""


def _network(config: TrainStateProbe, frames: FrameSpec, game: str | None) -> Cost:
    """A game whose objects are known has another network than one whose poses are known."""
    if game is not None and truth(game).poses is not None:
        return pose_probe_cost(config.probe.channels, frames)
    return state_probe_cost(_OBJECTS, config.probe.channels, frames)


def training_flops(config: TrainStateProbe, frames: FrameSpec, game: str | None = None) -> float:
    """FLOP of all updates. A backward pass counts as two forward passes. `game`: of the dataset, None if it is unknown."""
    return 3 * _network(config, frames, game).flops * config.probe.batch_size * config.probe.num_steps


def _disk(config: TrainStateProbe, inputs: Inputs) -> float:
    return 4.0 * _network(config, frames_of(inputs["dataset"]), _game(inputs)).parameters


def _game(inputs: Inputs) -> str | None:
    return getattr(inputs["dataset"], "game", None)


def _arithmetic(config: TrainStateProbe, inputs: Inputs) -> Arithmetic:
    channels, execution = config.probe.channels, config.execution
    return Arithmetic(f"{channels} channels", channels, execution.precision, execution.device)


COST = JobCost(
    work=lambda config, inputs: training_flops(config, frames_of(inputs["dataset"]), _game(inputs)),
    arithmetic=_arithmetic,
    disk=_disk,
    checkpoint=lambda config: Checkpoint("probe.checkpoint_every", config.probe.checkpoint_every, config.probe.num_steps),
)
