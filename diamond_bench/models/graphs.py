"""Functions of tensors recorded once as a CUDA graph and replayed: one launch in place of thousands.

What is recorded must be the same work at every call: static shapes, no wait for the device, no number of the host that changes.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
_OURS_ALONE = "thread_local"
"""What a capture forbids it forbids our thread: another may play the game meanwhile (`jobs.agent_concurrent`), as long as it draws from no
generator of the device."""
Recording = Callable[[], Outputs]
"""Does the recorded work anew, on what the inputs' memory holds now; its outputs lie in memory that the next call overwrites."""


class Recorder(Protocol):
    """Records `work`, which reads and writes memory that stays where it is."""

    def __call__(self, work: Callable[[], Outputs], generators: Sequence[torch.Generator]) -> Recording: ...


def record_cuda_graph(work: Callable[[], Outputs], generators: Sequence[torch.Generator] = ()) -> Recording:
    """Records `work` as a CUDA graph, without doing it; random numbers of `generators` go on at every replay as they would in turn.

    All graphs of a device work in the same memory, as large as the largest needs: what one leaves there, the next may overwrite, so
    outputs are to be copied before another is replayed, and no two may run at once.
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
    """One that does next to nothing, kept so that the memory it shares with the others outlives any of them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=_OURS_ALONE):
        torch.zeros(1, device=f"cuda:{device}")
    return graph


class Graphed:
    """A function of tensors, called as it is at first, and then recorded and replayed.

    The first calls are done in turn on a stream of their own, as recording asks for; they count, so that nothing is done twice.
    A call of other shapes than the first's is a ValueError. Inputs are copied to where the recorded work reads them. Large memory that the
    function reads without being given it is named by `held`: where it lies elsewhere, the function is recorded again.
    """

    WARM_UP = 3

    def __init__(
        self,
        function: Callable[..., Outputs],
        generators: Sequence[torch.Generator] = (),
        record: Recorder | None = None,
        held: Callable[[], Outputs] = tuple,
    ) -> None:
        """`generators`: those the function draws from; `held`: the tensors that it reads beside its inputs and that may be replaced."""
        self._function, self._generators, self._record = function, generators, record or record_cuda_graph
        self._held, self._read = held, held()
        self._recording: Recording | None = None
        self._inputs: Outputs = ()
        self._shapes: list[tuple[torch.Size, torch.dtype]] | None = None
        self._calls = 0
        self._side: torch.cuda.Stream | None = None

    def __call__(self, *inputs: Tensor) -> Outputs:
        """The function's outputs; tensors of their own, which no later call changes."""
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
            with torch.cuda.device(inputs[0].device) if inputs[0].is_cuda else nullcontext():  # streams and graphs are of the current one
                self._recording = self._record(lambda: self._function(*self._inputs), self._generators)
        for kept, tensor in zip(self._inputs, inputs, strict=True):
            kept.copy_(tensor)
        return tuple(output.clone() for output in self._recording())

    def _on_side_stream(self, inputs: Outputs) -> Outputs:
        """One stream for all warm-ups: the allocator keeps the memory of each stream apart."""
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
