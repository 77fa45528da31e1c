"""One network being trained: its optimiser, its learning rate, its clipping."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diamond_bench.training.optimizer import OptimizerSettings, make_optimizer, set_learning_rate


class LearnerSettings(OptimizerSettings, Protocol):
    """What a learner needs of a network's settings."""

    @property
    def max_grad_norm(self) -> float:
        """The global gradient norm is clipped to it."""
        ...


class Learner:
    """Updates a network by the authors' rule (method section 5) and counts the updates."""

    def __init__(self, network: nn.Module, settings: LearnerSettings) -> None:
        self.network, self.updates = network, 0
        self._settings = settings
        self._optimizer = make_optimizer(network, settings)
        self._parameters = list(network.parameters())

    def update(self, loss: Tensor) -> Tensor:
        """One update down the gradient of `loss`. Returns the gradient's norm before clipping, on the device."""
        set_learning_rate(self._optimizer, self._settings, self.updates)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        self._optimizer.step()
        self.updates += 1
        return norm.detach()

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and count, for a checkpoint."""
        return {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
