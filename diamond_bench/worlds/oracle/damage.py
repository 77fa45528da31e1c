"""Controlled damage to the frames of an oracle. It changes what is shown, and never the game itself."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from diamond_bench.envs.family import Truth
from diamond_bench.worlds.contract import Draw, State
from diamond_bench.worlds.oracle import Oracle

_LEVELS = 8
"""Levels of each colour channel of a token. 8 x 8 x 8 colours are 512, the size of IRIS's vocabulary."""


class Damage:
    """The damage that an `Oracle` asks for: first to objects, then blur, then tokens."""

    def __init__(self, settings: Oracle, truth: Truth) -> None:
        """`truth`: that of the game, which removes objects."""
        self._settings, self._truth = settings, truth

    def start(self, like: Tensor, draw: Draw) -> State:
        """The state of the damage at the start of b games: the objects that are missing from now on, (b, n) bool. It is empty if none can
        be. `like`: a tensor of b rows."""
        return (self._missing(like, self._settings.dropped, draw),) if self._settings.dropped else ()

    def shown(self, frames: Tensor, state: State, draw: Draw) -> Tensor:
        """True frames (b, 3, h, w) uint8 as they are shown. `state`: see `start`."""
        for missing in state:
            frames = self._erased(frames, missing)
        if self._settings.flicker:
            frames = self._erased(frames, self._missing(frames, self._settings.flicker, draw))
        if self._settings.blur:
            frames = blurred(frames, self._settings.blur)
        return tokenised(frames, self._settings.token_side) if self._settings.token_side else frames

    def _missing(self, like: Tensor, probability: float, draw: Draw) -> Tensor:
        normal = draw(torch.empty(len(like), len(self._truth.erasable), device=like.device))
        missing: Tensor = torch.special.ndtr(normal) < probability
        return missing

    def _erased(self, frames: Tensor, missing: Tensor) -> Tensor:
        assert self._truth.erased is not None, "planning refuses games whose objects cannot be removed"
        return torch.from_numpy(self._truth.erased(frames.cpu().numpy(), missing.cpu().numpy())).to(frames.device)


def blurred(frames: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of frames (b, 3, h, w) uint8. `sigma` is in pixels. Pixels beyond the edge equal those at the edge.

    The kernel ends at 4 sigma.
    """
    radius = math.ceil(4 * sigma)
    weights = torch.exp(-(torch.arange(-radius, radius + 1, device=frames.device) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    wide = functional.pad(frames.float(), (radius, radius, radius, radius), mode="replicate")
    rows = functional.conv2d(wide, weights, groups=3)
    return functional.conv2d(rows, weights.mT, groups=3).round().to(torch.uint8)


def tokenised(frames: Tensor, side: int) -> Tensor:
    """Frames (b, 3, h, w) uint8 after a round trip through one colour per patch of side x side pixels.

    A patch becomes its mean colour, rounded to 8 levels per channel. `side` divides h and w.
    """
    means = functional.avg_pool2d(frames.float(), side)
    step = 255 / (_LEVELS - 1)
    colours = ((means / step).round() * step).round().to(torch.uint8)
    return colours.repeat_interleave(side, dim=-2).repeat_interleave(side, dim=-1)
