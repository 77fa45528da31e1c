"""A world in which nothing moves: the baseline of a model that has learned nothing about its game."""

import torch
from torch import Tensor

from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.contract import Draw, RecordedPlay
from diamond_bench.worlds.copy_last_frame import CopyLastFrame
from diamond_bench.worlds.stacked import UntrainedWorld


class CopyWorld(UntrainedWorld):
    """The next frame is the last one."""

    def predict(self, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        """See `StackedWorld.predict`."""
        return past[:, -1].detach().clone()


def open_world(settings: CopyLastFrame, spec: WorldSpec, device: torch.device, play: RecordedPlay | None) -> CopyWorld:
    """The world of a game's frames and actions."""
    return CopyWorld(spec, device)
