"""The training of one network: its optimiser, learning rate and gradient clipping."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diamond_bench.models.graphs import Graphed, Outputs, Recorder
from diamond_bench.training.optimizer import OptimizerSettings, load_optimizer_state, make_optimizer, set_learning_rate
from diamond_bench.training.processes import Processes


class LearnerSettings(OptimizerSettings, Protocol):
    """The settings of a network that a learner uses."""

    @property
    def max_grad_norm(self) -> float:
        """Maximum global gradient norm."""
        ...


LossOf = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""Maps the tensors of a batch to the loss and to named metrics."""
CarryingLossOf = Callable[..., tuple[Tensor, dict[str, Tensor], Outputs]]
"""Like `LossOf`, and also returns tensors that the next update uses."""


class Learner:
    """Updates a network by the authors' rule (method section 5) and counts the updates."""

    def __init__(
        self,
        network: nn.Module,
        settings: LearnerSettings,
        fused: bool = True,
        recorded: bool = False,
        record: Recorder | None = None,
        accumulation: int = 1,
        processes: Processes | None = None,
        apart: nn.Module | None = None,
    ) -> None:
        """`fused`: optimiser with few kernels. `recorded`: run `learn` through a CUDA graph. `accumulation`: number of equal parts of an
        update whose gradients are averaged. `processes` share these parts equally, and each computes its own one after the other.
        `apart`: a part of the network whose gradients are clipped on their own. They do not enter `grad_norm`."""
        self.network, self.updates, self.rate = network, 0, 0.0
        self._settings, self._fused, self._recorded, self._record = settings, fused, recorded, record
        self._accumulation, self._processes = accumulation, processes
        self._parameters = list(network.parameters())
        self._apart = [] if apart is None else list(apart.parameters())
        alone = {id(parameter) for parameter in self._apart}
        self._others = [parameter for parameter in self._parameters if id(parameter) not in alone]
        self._graphed: Graphed | None = None
        self._names: list[str] = []
        if processes is None or processes.rank == 0:
            _ = self._optimizer  # now: its creation copies to the device, which an update must not wait for

    @cached_property
    def _optimizer(self) -> Optimizer:
        """A process that follows another has none, and need not import what torch's optimisers import."""
        return make_optimizer(self.network, self._settings, self._fused, on_device=True if self._recorded else None)

    def update(self, loss: Tensor) -> Tensor:
        """One gradient step on `loss`. Returns the gradient's norm before clipping, on the device."""
        self._begin()
        norm = self._descend(loss)
        self.updates += 1
        return norm

    def learn(self, loss_of: LossOf, batch: Sequence[Tensor], generators: Sequence[torch.Generator] = ()) -> dict[str, Tensor]:
        """One update on a batch. Returns the metrics of `loss_of(*batch)` and `grad_norm`, on the device. With accumulation, `loss_of` gets
        the parts of the batch, and the metrics are their mean.

        `loss_of` must be the same function at every call, and `generators` those that it draws from. If updates are recorded, it is called
        a few times and then never again.
        """
        return self.carry(lambda *inputs: (*loss_of(*inputs), ()), batch, generators)[0]

    def carry(
        self,
        loss_of: CarryingLossOf,
        batch: Sequence[Tensor],
        generators: Sequence[torch.Generator] = (),
        held: Callable[[], Outputs] = tuple,
    ) -> tuple[dict[str, Tensor], Outputs]:
        """Like `learn`. Also returns the tensors that the next update uses. `held`: see `Graphed`."""
        self._begin()
        if not self._recorded:
            values = self._recordable(loss_of, batch)
        else:
            if self._graphed is None:
                self._graphed = Graphed(lambda *inputs: self._recordable(loss_of, inputs), generators, self._record, held)
            values = self._graphed(*batch)
        self.updates += 1
        return dict(zip(self._names, values, strict=False)), values[len(self._names) :]

    def _recordable(self, loss_of: CarryingLossOf, inputs: Sequence[Tensor]) -> Outputs:
        if self._accumulation == 1:
            loss, metrics, after = loss_of(*inputs)
            norm = self._descend(loss)
        else:
            metrics, after = self._accumulated(loss_of, inputs), ()
            if self._processes is not None:
                self._processes.sum_to_first([*self._gradients(), *metrics.values()])
            norm = self._step()
            if self._processes is not None:
                self._processes.copy_from_first(self._parameters)
        found = {**metrics, "grad_norm": norm}
        self._names = list(found)
        return (*found.values(), *after)

    def _begin(self) -> None:
        self.rate = set_learning_rate(self._optimizer, self._settings, self.updates)
        self._optimizer.zero_grad(set_to_none=True)

    def follow(self, loss_of: LossOf, batch: Sequence[Tensor]) -> None:
        """The same update as `learn` in a process that does not lead: it computes its gradients and receives the new weights."""
        assert self._processes is not None
        self.network.zero_grad(set_to_none=True)
        metrics = self._accumulated(lambda *inputs: (*loss_of(*inputs), ()), batch)
        self._processes.sum_to_first([*self._gradients(), *metrics.values()])
        self._processes.copy_from_first(self._parameters)
        self.updates += 1

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _accumulated(self, loss_of: CarryingLossOf, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """This process's share of the mean metrics of an update's parts. Adds its share of the mean gradient to the parameters."""
        totals: dict[str, Tensor] = {}
        here = self._accumulation // (self._processes.size if self._processes else 1)
        for part in zip(*(tensor.chunk(here) for tensor in inputs), strict=True):
            loss, metrics, _ = loss_of(*part)
            (loss / self._accumulation).backward()
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0) + value / self._accumulation
        return totals

    def _descend(self, loss: Tensor) -> Tensor:
        loss.backward()
        return self._step()

    def _step(self) -> Tensor:
        norm = torch.nn.utils.clip_grad_norm_(self._others, self._settings.max_grad_norm)
        if self._apart:
            torch.nn.utils.clip_grad_norm_(self._apart, self._settings.max_grad_norm)
        self._optimizer.step()
        return norm.detach()

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser state and count, for a checkpoint."""
        return {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        self.network.load_state_dict(state["network"])
        load_optimizer_state(self._optimizer, state["optimizer"])
        self.updates = state["updates"]
        self._graphed = None  # it refers to the memory of the previous state
