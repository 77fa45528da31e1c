"""What the worlds of all trained families share, if their learned state lies in the weights of their networks."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import nn

from diamond_bench.config import OdeSampler, Sampler, WorldSettings, world_family
from diamond_bench.config.worlds import WorldCost
from diamond_bench.data.sources import SegmentSource
from diamond_bench.data.static import EpisodeSet
from diamond_bench.models.compilation import Compilable
from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.files import save_world


class BuiltWorld:
    """The part of a `TrainedWorld` that follows from its settings, its spec and its networks."""

    settings: WorldSettings
    spec: WorldSpec

    compilable: ClassVar[Sequence[Compilable]] = ()
    measured: ClassVar[Mapping[str, float]] = {}

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """See `WorldModel.networks`."""

    @property
    def device(self) -> torch.device:
        """See `WorldModel.device`."""
        return next(weights.device for network in self.networks.values() for weights in network.parameters())

    @property
    def calls_per_frame(self) -> int:
        """See `WorldModel.calls_per_frame`, as stated by the family."""
        return self._cost.calls_per_frame

    @property
    def flops_per_frame(self) -> float:
        """See `WorldModel.flops_per_frame`, as stated by the family."""
        return self._cost.flops_per_frame

    @property
    def _cost(self) -> WorldCost:
        return world_family(self.settings).cost(self.settings, self.spec, self._sampler)

    @property
    def _sampler(self) -> Sampler:
        """The sampler that the cost depends on. The cost of a family without a sampler is the same for all."""
        return OdeSampler()

    @property
    def context(self) -> int:
        """See `WorldModel.context`, as stated by the family."""
        return world_family(self.settings).context(self.settings)

    @property
    def description(self) -> object:
        """See `TrainedWorld.description`."""
        return self.settings, self.spec

    def bound(self, sampler: Sampler) -> Self:
        """The same model, which needs no sampler."""
        return self

    def in_streams(self, count: int) -> Self:
        """The same model: its rows are always imagined together."""
        return self

    def measure(self, episodes: EpisodeSet | SegmentSource) -> None:
        """See `TrainedWorld.measure`: there is nothing to measure."""

    def save(self, folder: Path) -> None:
        """See `TrainedWorld.save`."""
        save_world(folder, self.settings, self.spec, self.networks)
