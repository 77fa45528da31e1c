"""World models whose memory is the last L frames and actions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from diamond_bench.config import TrainingConfig, WorldSettings
from diamond_bench.data.segments import Segments
from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.contract import Draw, State, Step, Trainable
from diamond_bench.worlds.padding import last_frames
from diamond_bench.worlds.trained import BuiltWorld


class StackedWorld(ABC):
    """The state is (frames (b, L, 3, h, w), actions (b, L, ...)). `step` fills in the action after the newest frame."""

    @property
    @abstractmethod
    def context(self) -> int:
        """L."""

    @abstractmethod
    def predict(self, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        """The next frame of every row, (b, 3, h, w) float32 on the 8-bit grid of [-1, 1], without gradient.

        Args:
            past: true or imagined frames in [-1, 1], oldest first, (b, L, 3, h, w).
            actions: actions[:, i] taken after frame i of `past`, (b, L, ...).
            draw: fresh N(0, 1).
        """

    def start(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """See `WorldModel.start`. Only the last L frames are used."""
        past, acted = last_frames(self.context, frames, actions)
        return past, acted

    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """See `WorldModel.step`."""
        frames, actions = state
        acted = with_action(actions, action)
        frame = self.predict(frames, acted, draw)
        return advanced(frames, acted, frame), Step(frame)


def with_action(actions: Tensor, action: Tensor) -> Tensor:
    """The actions (b, L, ...) of a state, with the one after its newest frame filled in."""
    return torch.cat((actions[:, :-1], action[:, None]), dim=1)


def advanced(frames: Tensor, acted: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """The frames and actions of a state after the next frame (b, 3, h, w). `acted`: see `with_action`."""
    return torch.cat((frames[:, 1:], frame[:, None]), dim=1), acted.roll(-1, dims=1)


class UntrainedWorld(StackedWorld):
    """A `WorldModel` that predicts frames from the last L without a network. A subclass has `predict`."""

    pure = True
    calls_per_frame = 0
    flops_per_frame = 0.0
    networks: Mapping[str, nn.Module] = {}

    def __init__(self, spec: WorldSpec, device: torch.device, context: int = 1) -> None:
        """`spec`: of the game. The world predicts neither its rewards nor its ends. `context`: L."""
        self.spec = WorldSpec(spec.frames, spec.actions, rewards=False, ends=False)
        self.device, self._context = device, context

    @property
    def context(self) -> int:
        """L."""
        return self._context


class LearnedWorld(BuiltWorld, StackedWorld):
    """A `TrainedWorld` that predicts frames from the last L with one call of one network. A subclass has `predict` and `loss`."""

    pure = True

    def __init__(self, settings: WorldSettings, spec: WorldSpec, network: nn.Module) -> None:
        """`spec`: of the game. The world predicts neither its rewards nor its ends. `network`: on its device."""
        self.settings, self.network = settings, network
        self.spec = WorldSpec(spec.frames, spec.actions, rewards=False, ends=False)

    @abstractmethod
    def loss(self, segments: Segments, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See `Trainable.loss`, for segments of L + 1 frames."""

    def trainables(self, training: TrainingConfig) -> Sequence[Trainable]:
        """See `TrainedWorld.trainables`."""
        return (Trainable("network", self.network, self.context + 1, self.loss),)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """See `WorldModel.networks`."""
        return {"network": self.network}

    def call(self, state: State) -> None:
        """See `TrainedWorld.call`."""
        frames, actions = state
        self.predict(frames, actions, torch.zeros_like)
