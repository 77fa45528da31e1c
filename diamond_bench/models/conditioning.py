"""The interface of all conditionings of the denoiser: how they are built, and what they give to the network."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from diamond_bench.config import WITHHELD


def withheld(actions: Tensor) -> float:
    """The value of a withheld action, in every column: NaN for floats, else WITHHELD."""
    return math.nan if actions.is_floating_point() else WITHHELD


class ConditioningInputs(NamedTuple):
    """The network's inputs that encode past frames and actions. Each enters at its own place. A conditioning leaves out those it does not
    use."""

    planes: Tensor | None = None
    """(b, num_planes, h, w), stacked on channels before the noisy frame."""
    vector: Tensor | None = None
    """(b, cond_channels), added to the features of the noise level."""
    history: Sequence[Tensor | None] = ()
    """For each level of the U-Net, tokens (b, n, history_widths[level]) that its residual blocks attend to, or None. () means no tokens at
    all."""


class Conditioning(Protocol):
    """A module registered in FRAME_CONDITIONINGS or ACTION_CONDITIONINGS.

    It is built from (NetworkConfig, ConditioningConfig, ActionSpec, image_channels). Its initial weights are then drawn from torch's global
    generator.
    """

    num_planes: int
    history_widths: Sequence[int]
    """Width of the tokens for each level, or 0 for a level without tokens. () means no tokens at all."""

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """Encodes past frames and actions.

        Args:
            past: past frames as the objective scales them, stacked on channels, oldest first, (b, L * 3, h, w).
            actions: taken after each past frame, (b, L) or (b, L, k) as given by their `ActionSpec`. Withheld ones have the value
            `withheld`.
        """
        ...
