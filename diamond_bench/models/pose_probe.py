"""A network that reads from one frame of a first-person game where the player stands and in which direction it looks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.models.pose_probe_cost import HIDDEN, OUTPUTS, layers
from diamond_bench.spaces import FrameSpec


class PoseProbe(nn.Module):
    """Frames (n, 3, h, w) in [-1, 1] -> (n, 4): x and y in units of `scale` from `middle`, and the cosine and sine of the angle."""

    middle: Tensor
    scale: Tensor

    def __init__(self, channels: int, frames: FrameSpec) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, side, stride=2, padding=side // 2) for a, b, side in layers(channels))
        height, width = frames.sides
        for _ in self.convolutions:
            height, width = -(-height // 2), -(-width // 2)
        self.hidden = nn.Linear(2 * channels * height * width, HIDDEN)
        self.out = nn.Linear(HIDDEN, OUTPUTS)
        self.register_buffer("middle", torch.zeros(2))  # of the positions in the training split, in map units
        self.register_buffer("scale", torch.ones(2))

    def forward(self, frames: Tensor) -> Tensor:
        x = frames
        for layer in self.convolutions:
            x = F.relu(layer(x))
        out: Tensor = self.out(F.relu(self.hidden(x.flatten(1))))
        return out

    def measure(self, positions: Tensor) -> None:
        """Sets `middle` and `scale` to mean and standard deviation of positions (N, 2)."""
        self.middle.copy_(positions.mean(dim=0))
        self.scale.copy_(positions.std(dim=0).clamp(min=1.0))

    def targets(self, positions: Tensor, angles: Tensor) -> Tensor:
        """The output for poses: positions (n, 2) in map units and angles (n,) in radians -> (n, 4)."""
        return torch.cat(((positions - self.middle) / self.scale, torch.stack((angles.cos(), angles.sin()), dim=1)), dim=1)

    def decode(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (n, 2) in map units and angles (n,) in radians of an output (n, 4)."""
        return output[:, :2] * self.scale + self.middle, torch.atan2(output[:, 3], output[:, 2])
