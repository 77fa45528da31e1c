"""A network that detects objects in a frame and locates them: one heat map per object, at half the frame's resolution.

Each heat map is a distribution over its cells and one additional cell, "not there". Its training target is the object's position,
distributed over the four cells around it, so that the mean over the map is the position itself, finer than a pixel.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.models.state_probe_cost import DILATIONS, INPUTS

_REACH = 2
"""Cells around the most likely one over which the position is averaged, so that a second, less likely object elsewhere does not shift
it."""
_SURROUNDINGS = 3
"""Cells on each side of an object that are excluded from the training signal that it is nowhere else."""


class StateProbe(nn.Module):
    """Frames (n, 3, h, w) in [-1, 1] -> logits (n, K, cells + 1). The last logit is "not there"."""

    def __init__(self, num_objects: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(INPUTS, channels, 5, stride=2, padding=2)
        self.deeper = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in DILATIONS)
        self.maps = nn.Conv2d(channels, num_objects, 1)
        self.absent = nn.Parameter(torch.zeros(num_objects))

    def forward(self, frames: Tensor) -> Tensor:
        n, _, h, w = frames.shape
        places = [torch.linspace(-1, 1, size, device=frames.device) for size in (h, w)]
        grid = torch.stack(torch.meshgrid(*places, indexing="ij")).expand(n, -1, -1, -1)
        x = F.relu(self.first(torch.cat((frames, grid), dim=1)))
        for layer in self.deeper:
            x = x + F.relu(layer(x))
        return torch.cat((self.maps(x).flatten(2), self.absent.expand(n, -1)[..., None]), dim=2)


def probe_targets(positions: Tensor, present: Tensor, shape: tuple[int, int]) -> Tensor:
    """The training targets for frames of `shape` (h, w): distributions (n, K, cells + 1).

    `positions`: (n, K, 2), x and y as fractions of the frame's sides. `present`: (n, K) bool.
    """
    rows, columns = (-(-side // 2) for side in shape)
    weights = []
    for cells, side, share in ((columns, shape[1], positions[..., 0]), (rows, shape[0], positions[..., 1])):
        place = ((share * side - 0.5) / 2).clamp(0, cells - 1)  # cell c is centred on pixel 2c, whose middle is at 2c + 0.5
        weights.append((1 - (place[..., None] - torch.arange(cells, device=place.device)).abs()).clamp(min=0))
    over_cells = (weights[1][..., :, None] * weights[0][..., None, :]).flatten(2) * present[..., None]
    return torch.cat((over_cells, (~present)[..., None].to(over_cells.dtype)), dim=2)


def probe_loss(logits: Tensor, targets: Tensor, shape: tuple[int, int]) -> Tensor:
    """Mean cross-entropy with `targets`, plus that of the maps without the object's surroundings with "not there". A scalar.

    The second term teaches what frames without an object look like, since these are rare in true frames.
    """
    rows, columns = (-(-side // 2) for side in shape)
    around = targets[..., :-1].unflatten(2, (rows, columns))
    around = F.max_pool2d((around > 0).float(), 2 * _SURROUNDINGS + 1, 1, _SURROUNDINGS).flatten(2) > 0
    elsewhere = torch.cat((logits[..., :-1].masked_fill(around, -torch.inf), logits[..., -1:]), dim=2)
    return -((targets * logits.log_softmax(dim=2)).sum(dim=2) + elsewhere.log_softmax(dim=2)[..., -1]).mean()


def decode(logits: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Positions (n, K, 2), x and y in pixels of frames of `shape` (h, w) from their upper left corner, and whether an object is there (n,
    K).

    The position is returned even if "not there" is more likely.
    """
    rows, columns = (-(-side // 2) for side in shape)
    chances = logits.softmax(dim=2)
    present = chances[..., -1] < 0.5
    heat = chances[..., :-1].unflatten(2, (rows, columns))
    likeliest = logits[..., :-1].argmax(dim=2)
    spans = []
    for cells, middle in ((rows, likeliest // columns), (columns, likeliest % columns)):
        numbers = torch.arange(cells, device=logits.device)
        spans.append(((numbers - middle[..., None]).abs() <= _REACH).to(heat.dtype))
    near = heat * spans[0][..., :, None] * spans[1][..., None, :] + torch.finfo(heat.dtype).tiny
    near = near / near.sum(dim=(2, 3), keepdim=True)
    y = (near.sum(dim=3) * torch.arange(rows, device=logits.device)).sum(dim=2)
    x = (near.sum(dim=2) * torch.arange(columns, device=logits.device)).sum(dim=2)
    return torch.stack((x, y), dim=2) * 2 + 0.5, present
