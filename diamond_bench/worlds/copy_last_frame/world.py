"""A world in which nothing moves: what a model that has learned nothing of a game can always do."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.contract import Draw, RecordedPlay
from diamond_bench.worlds.copy_last_frame import CopyLastFrame
from diamond_bench.worlds.stacked import StackedWorld


@dataclass(frozen=True)
class CopyWorld(StackedWorld):
    """A `WorldModel` without a network."""

    spec: WorldSpec
    device: torch.device

    context = 1
    pure = True
    calls_per_frame = 0
    flops_per_frame = 0.0

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """As `WorldModel.networks`: none."""
        return {}

    def predict(self, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        """As `StackedWorld.predict`."""
        return past[:, -1].detach().clone()


def open_world(settings: CopyLastFrame, spec: WorldSpec, device: torch.device, play: RecordedPlay | None) -> CopyWorld:
    """The world of such frames and actions. It predicts neither rewards nor ends."""
    return CopyWorld(WorldSpec(spec.frames, spec.actions, rewards=False, ends=False), device)
