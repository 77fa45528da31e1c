"""What each kind of job costs (`store.cost.JobCost`): one file per kind, without torch. Here is what several of them share."""

from diamond_bench.envs.games import frames
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.store.kinds import CollectDataset, ImportDataset, TrainAgent

MAX_ACTIONS = ActionSpec.discrete(18)
"""Actions assumed where a config does not say how many its game has: the most of any Atari game. They hardly change a cost."""
STORED_PIXEL_BYTES = 500 / 64**2
"""Bytes per pixel of a stored frame: a compressed frame of 64 x 64 takes about 310 (Breakout), its memory and action some more."""
ADAM = 3
"""Numbers per parameter in a resumable state: the weight and Adam's two moments."""


def frames_of(played: CollectDataset | ImportDataset | TrainAgent) -> FrameSpec:
    """The frames that a dataset holds, or that an agent sees."""
    return FrameSpec.square(played.env.frame_size) if isinstance(played, ImportDataset) else frames(played.game, played.env)
