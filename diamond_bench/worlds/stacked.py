"""World models whose memory is the last L frames and actions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.contract import Draw, State, Step


class StackedWorld(ABC):
    """The state is (frames (b, L, 3, h, w), actions (b, L, ...)); the action after the newest frame is filled in by `step`."""

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
        """As `WorldModel.start`; the last L frames are seen."""
        if frames.shape[1] < self.context:
            raise ValueError(f"expected at least {self.context} frames to start from, got {frames.shape[1]}")
        return frames[:, -self.context :], actions[:, -self.context :]

    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """As `WorldModel.step`."""
        frames, actions = state
        acted = torch.cat((actions[:, :-1], action[:, None]), dim=1)
        frame = self.predict(frames, acted, draw)
        return (torch.cat((frames[:, 1:], frame[:, None]), dim=1), acted.roll(-1, dims=1)), Step(frame)


class UntrainedWorld(StackedWorld):
    """A `WorldModel` that predicts frames from the last L without a network; a subclass has `predict`."""

    pure = True
    calls_per_frame = 0
    flops_per_frame = 0.0
    networks: Mapping[str, nn.Module] = {}

    def __init__(self, spec: WorldSpec, device: torch.device, context: int = 1) -> None:
        """`spec`: of the game; the world predicts neither its rewards nor its ends. `context`: L."""
        self.spec = WorldSpec(spec.frames, spec.actions, rewards=False, ends=False)
        self.device, self._context = device, context

    @property
    def context(self) -> int:
        """L."""
        return self._context
