"""Functions of tensors that are recorded once as a CUDA graph and replayed: one launch in place of thousands.

The recorded work must be the same at every call: static shapes, no wait for the device, no changing number from the host.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
_OURS_ALONE = "thread_local"
"""The capture mode. It forbids certain calls to this thread only: another thread may play the game meanwhile (`jobs.agent_concurrent`), as
long as it draws from no generator of the device."""
Recording = Callable[[], Outputs]
"""Repeats the recorded work on the present content of the inputs' memory. The next call overwrites the outputs."""


class Recorder(Protocol):
    """Records `work`, which reads and writes memory at fixed addresses."""

    def __call__(self, work: Callable[[], Outputs], generators: Sequence[torch.Generator]) -> Recording: ...


def record_cuda_graph(work: Callable[[], Outputs], generators: Sequence[torch.Generator] = ()) -> Recording:
    """Records `work` as a CUDA graph without running it. At every replay, the random numbers of `generators` advance as in an ordinary
    call.

    All graphs of a device share one memory pool, as large as the largest graph needs. A graph may overwrite the results of another, so copy
    outputs before another graph is replayed, and never run two at once.
    """
    graph, pool = torch.cuda.CUDAGraph(), _first_graph(torch.cuda.current_device()).pool()
    for generator in generators:
        graph.register_generator_state(generator)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, pool, capture_error_mode=_OURS_ALONE):
        outputs = work()

    def replay() -> Outputs:
        graph.replay()
        return outputs

    return replay


@cache
def _first_graph(device: int) -> torch.cuda.CUDAGraph:
    """A graph that does almost nothing. It is kept so that the shared memory outlives the other graphs."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=_OURS_ALONE):
        torch.zeros(1, device=f"cuda:{device}")
    return graph


class Graphed:
    """A function of tensors: called directly at first, then recorded and replayed.

    The first calls run directly on a separate stream, as recording requires. They count, so that nothing is done twice. A call with shapes
    other than the first call's raises ValueError. Inputs are copied to the memory that the recorded work reads. `held` names large memory
    that the function reads without receiving it as an argument: if it moves, the function is recorded again.
    """

    WARM_UP = 3

    def __init__(
        self,
        function: Callable[..., Outputs],
        generators: Sequence[torch.Generator] = (),
        record: Recorder | None = None,
        held: Callable[[], Outputs] = tuple,
    ) -> None:
        """`generators`: those that the function draws from. `held`: returns the tensors that it reads in addition to its inputs and that
        may be replaced."""
        self._function, self._generators, self._record = function, generators, record or record_cuda_graph
        self._held, self._read = held, held()
        self._recording: Recording | None = None
        self._inputs: Outputs = ()
        self._shapes: list[tuple[torch.Size, torch.dtype]] | None = None
        self._calls = 0
        self._side: torch.cuda.Stream | None = None

    def __call__(self, *inputs: Tensor) -> Outputs:
        """The function's outputs, as new tensors that no later call changes."""
        shapes = [(tensor.shape, tensor.dtype) for tensor in inputs]
        if self._shapes is None:
            self._shapes = shapes
        if shapes != self._shapes:
            raise ValueError(f"recorded for inputs of {self._shapes}, called with {shapes}")
        held = self._held()
        if [id(tensor) for tensor in held] != [id(tensor) for tensor in self._read]:
            self._read, self._recording, self._calls = held, None, 0
        self._calls += 1
        if self._calls <= self.WARM_UP:
            return self._on_side_stream(inputs) if inputs[0].is_cuda else self._function(*inputs)
        if self._recording is None:
            self._inputs = tuple(tensor.clone() for tensor in inputs)
            # streams and graphs belong to the current device
            with torch.cuda.device(inputs[0].device) if inputs[0].is_cuda else nullcontext():
                self._recording = self._record(lambda: self._function(*self._inputs), self._generators)
        for kept, tensor in zip(self._inputs, inputs, strict=True):
            kept.copy_(tensor)
        return tuple(output.clone() for output in self._recording())

    def _on_side_stream(self, inputs: Outputs) -> Outputs:
        """One stream for all warm-ups, because the allocator keeps separate memory for each stream."""
        if self._side is None:
            self._side = torch.cuda.Stream(inputs[0].device)
        own = torch.cuda.current_stream(inputs[0].device)
        self._side.wait_stream(own)
        with torch.cuda.stream(self._side):
            outputs = self._function(*inputs)
        own.wait_stream(self._side)
        for tensor in outputs:
            tensor.record_stream(own)
        return outputs
