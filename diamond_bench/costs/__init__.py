"""The cost of each kind of job (`store.cost.JobCost`): one file per kind, without torch. This file contains shared constants."""

from diamond_bench.envs.games import frames
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.store.kinds import CollectDataset, ImportDataset, TrainAgent

MAX_ACTIONS = ActionSpec.discrete(18)
"""Number of actions that is assumed if a config does not determine it: the maximum of all Atari games. It hardly changes a cost."""
STORED_PIXEL_BYTES = 500 / 64**2
"""Bytes per pixel of a stored frame. A compressed frame of 64 x 64 takes about 310 (Breakout), plus its memory and action."""
ADAM = 3
"""Numbers per parameter in a checkpoint: the weight and Adam's two moments."""


def frames_of(played: CollectDataset | ImportDataset | TrainAgent) -> FrameSpec:
    """The frames of a dataset, or those that an agent sees."""
    return played.env.frames if isinstance(played, ImportDataset) else frames(played.game, played.env)
