"""Networks that read the action from two consecutive frames, and the meaning of their output."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.models.inverse_dynamics_cost import BOTH, FIRST, HIDDEN, layers
from diamond_bench.spaces import ActionSpec, FrameSpec


@dataclass(frozen=True)
class ActionCode:
    """The output that stands for an action: logits for each class or column, or for a Box its numbers scaled to [-1, 1]."""

    spec: ActionSpec
    classes: tuple[int, ...] = ()
    """Discrete: the class of each action, from 0. Actions of one class have the same effect. Empty for other kinds."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each column, 0 for a continuous one. A Discrete action is one column of classes."""
        return self.spec.sizes if self.spec.trailing else (max(self.classes) + 1,)

    @property
    def width(self) -> int:
        """Width of the output."""
        return sum(size or 1 for size in self.sizes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Discrete: the names of the actions of each class, joined by a slash."""
        names = self.spec.names or tuple(str(i) for i in range(len(self.classes)))
        return tuple(
            "/".join(name for name, of in zip(names, self.classes, strict=True) if of == number) for number in range(max(self.classes) + 1)
        )

    def values(self, actions: Tensor) -> Tensor:
        """The values that are read from frames, (..., k): classes for Discrete actions (...), else the actions (..., k) themselves."""
        return actions if self.spec.trailing else torch.tensor(self.classes, device=actions.device)[actions][..., None]

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Mean over columns of the cross-entropy, or of the squared error of scaled numbers. output (n, width), values (n, k)."""
        if self.spec.low:
            low, high = (torch.tensor(ends, device=output.device) for ends in self.spec.bounds)
            return (output - (2 * (values - low) / (high - low) - 1)).square().mean()
        logits = output.split(self.sizes, dim=1)
        return torch.stack([F.cross_entropy(one, values[:, i]) for i, one in enumerate(logits)]).mean()

    def decode(self, output: Tensor) -> Tensor:
        """The values (n, k) of an output (n, width)."""
        if self.spec.low:
            low, high = (torch.tensor(ends, device=output.device) for ends in self.spec.bounds)
            return low + (output.clamp(-1, 1) + 1) / 2 * (high - low)
        return torch.stack([one.argmax(dim=1) for one in output.split(self.sizes, dim=1)], dim=1)


class _Reader(nn.Module):
    def __init__(self, inputs: int, channels: int, frames: FrameSpec, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, side, stride=2, padding=side // 2) for a, b, side in layers(inputs, channels))
        height, wide = frames.sides
        for _ in self.convolutions:
            height, wide = -(-height // 2), -(-wide // 2)
        self.hidden = nn.Linear(2 * channels * height * wide, HIDDEN)
        self.out = nn.Linear(HIDDEN, width)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.convolutions:
            x = F.relu(layer(x))
        out: Tensor = self.out(F.relu(self.hidden(x.flatten(1))))
        return out


class InverseDynamics(nn.Module):
    """The frames before and after an action, (n, 3, h, w) each in [-1, 1] -> two outputs (n, width).

    The first is read from both frames. The second is read from the first frame alone: it shows what the state reveals about the action.
    """

    def __init__(self, channels: int, frames: FrameSpec, width: int) -> None:
        super().__init__()
        self.both = _Reader(BOTH, channels, frames, width)
        self.first = _Reader(FIRST, channels, frames, width)

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        return self.both(torch.cat((before, after, after - before), dim=1)), self.first(before)
