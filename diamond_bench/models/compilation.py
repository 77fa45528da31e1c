"""Forward passes through torch.compile, for the batch sizes that a job announces."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Compiled:
    """A network's forward pass: compiled for batches of given sizes, uncompiled for all others.

    Shapes are static, and a graph that torch cannot capture whole is an error. Whether a call is compiled depends only on its size and on
    whether gradients are enabled, so that an interrupted run resumes with the same arithmetic. The first call of a size compiles.
    """

    def __init__(
        self, network: nn.Module, sizes: Iterable[int], with_gradient: bool = True, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        """`sizes`: batch sizes of the first argument. `with_gradient`: whether calls with gradients are compiled too."""
        self._network, self._sizes, self._with_gradient = network, frozenset(sizes), with_gradient
        self._compiled = torch.compile(network.forward, fullgraph=True, dynamic=False, backend=backend)
        self._seen: set[tuple[int, bool]] = set()
        self.seconds = 0.0
        """Time of the first calls, which compile."""
        self.calls = {"compiled": 0, "eager": 0}
        """Number of calls of each type."""

    @property
    def first_calls(self) -> int:
        """Number of compilations."""
        return len(self._seen)

    def __call__(self, x: Tensor, *rest: Tensor, **inputs: Any) -> Tensor:
        """The network's output."""
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
    encodes_past_once = False
    """Whether the calls for one frame share the encoding of past frames. A network without such an encoding ignores it."""

    @property
    @abstractmethod
    def core(self) -> nn.Module:
        """That part."""

    def run_core(self, x: Tensor, *rest: Tensor, **inputs: Any) -> Tensor:
        """The forward pass of that part, compiled after `compile_core`."""
        return (self.core if self.compiled is None else self.compiled)(x, *rest, **inputs)

    def compile_core(self, sizes: Iterable[int], with_gradient: bool = True) -> None:
        """Compiles that part for these batch sizes; see `Compiled`."""
        self.compiled = Compiled(self.core, sizes, with_gradient)
