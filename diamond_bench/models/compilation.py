"""Forward passes through torch.compile, at the batch sizes that a job says it will use."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Compiled:
    """A network's forward pass: compiled for batches of given sizes, the network itself for all others.

    Shapes are static, a graph that torch cannot capture whole is an error, and which calls are compiled depends on nothing but the
    size and whether gradients are on: a run that is interrupted goes on with the same arithmetic. The first call of a size compiles.
    """

    def __init__(
        self, network: nn.Module, sizes: Iterable[int], with_gradient: bool = True, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        """`sizes`: of the first argument's batch; `with_gradient`: whether calls under gradient are compiled too."""
        self._network, self._sizes, self._with_gradient = network, frozenset(sizes), with_gradient
        self._compiled = torch.compile(network.forward, fullgraph=True, dynamic=False, backend=backend)
        self._seen: set[tuple[int, bool]] = set()
        self.seconds = 0.0
        """Of first calls, which compile."""
        self.calls = {"compiled": 0, "eager": 0}
        """How often each way was taken."""

    @property
    def first_calls(self) -> int:
        """How often it compiled."""
        return len(self._seen)

    def __call__(self, x: Tensor, *rest: Tensor, **inputs: Tensor) -> Tensor:
        """As the network."""
        gradient = torch.is_grad_enabled()
        if len(x) not in self._sizes or (gradient and not self._with_gradient):
            self.calls["eager"] += 1
            eager: Tensor = self._network(x, *rest, **inputs)
            return eager
        self.calls["compiled"] += 1
        if (len(x), gradient) in self._seen:
            compiled: Tensor = self._compiled(x, *rest, **inputs)
            return compiled
        started = time.perf_counter()
        output: Tensor = self._compiled(x, *rest, **inputs)
        self.seconds += time.perf_counter() - started
        self._seen.add((len(x), gradient))
        return output


class Compilable(nn.Module, ABC):
    """A network with a part that does nearly all its arithmetic and may be compiled."""

    compiled: Compiled | None = None

    @property
    @abstractmethod
    def core(self) -> nn.Module:
        """That part."""

    def run_core(self, x: Tensor, *rest: Tensor, **inputs: Tensor) -> Tensor:
        """Its forward pass, compiled where `compile_core` said so."""
        return (self.core if self.compiled is None else self.compiled)(x, *rest, **inputs)

    def compile_core(self, sizes: Iterable[int], with_gradient: bool = True) -> None:
        """Compile it for these batch sizes; see `Compiled`."""
        self.compiled = Compiled(self.core, sizes, with_gradient)
