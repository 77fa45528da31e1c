"""What every way of conditioning the denoiser has in common: what it is built from and what it hands to the network."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from diamond_bench.config import WITHHELD


def withheld(actions: Tensor) -> float:
    """The value that stands for an action the network is not to know, in every column: NaN among floats, else WITHHELD."""
    return math.nan if actions.is_floating_point() else WITHHELD


class ConditioningInputs(NamedTuple):
    """What the network is told of the past; each part enters at its own place, and a way of conditioning leaves out what it has not."""

    planes: Tensor | None = None
    """(b, num_planes, h, w), stacked on channels before the noisy frame."""
    vector: Tensor | None = None
    """(b, cond_channels), added to the features of the noise level."""
    history: Sequence[Tensor | None] = ()
    """For each level of the U-Net, tokens (b, n, history_widths[level]) that its residual blocks attend to, or None; () is none at all."""


class Conditioning(Protocol):
    """A module registered in FRAME_CONDITIONINGS or ACTION_CONDITIONINGS.

    It is built from (NetworkConfig, ConditioningConfig, ActionSpec, image_channels); the random numbers of its start are drawn then,
    from torch's global generator.
    """

    num_planes: int
    history_widths: Sequence[int]
    """Width of the tokens for each level, 0 where the level attends to none; () is none at all."""

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """What to encode of past frames as the objective scales them, stacked on channels, oldest first, (b, L * 3, h, w), and of the
        actions taken after each of them, (b, L) or (b, L, k) as their `ActionSpec` says, `withheld` where the network is not to know
        them."""
        ...
