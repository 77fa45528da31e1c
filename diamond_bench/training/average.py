"""An exponential average of a network's weights over its updates."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average sum_i (1 - d) d^(t - i) w_i / (1 - d^t) of the weights w_1..w_t after each update, with decay d.

    The division is Adam's bias correction (Kingma and Ba 2015, section 3): early averages cover few updates, and the initial weights do not
    count.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """`decay` lies in [0, 1)."""
        self._parameters = [parameter.detach() for parameter in network.parameters()]
        self._averages = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._decay = decay

    def __len__(self) -> int:
        """Number of averaged tensors."""
        return len(self._averages)

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Adds the network's present weights; called after each update. `updates`: number of updates so far."""
        torch._foreach_lerp_(self._averages, self._parameters, (1 - self._decay) / (1 - self._decay**updates))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the network has the averaged weights. The last weights are restored at its end."""
        last = [parameter.clone() for parameter in self._parameters]
        try:
            torch._foreach_copy_(self._parameters, self._averages)
            yield
        finally:
            torch._foreach_copy_(self._parameters, last)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"averages": self._averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        saved: list[Tensor] = state["averages"]
        for average, theirs in zip(self._averages, saved, strict=True):
            average.copy_(theirs)
