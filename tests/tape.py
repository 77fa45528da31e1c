"""A stand-in for CUDA graphs on the CPU: what torch was asked to do is noted once and asked again at every replay.

As in a CUDA graph, memory stays where it is, and every number that the host decided while the work was recorded stays what it was. What
torch.compile made is not seen, since its kernels are not torch's own calls: record eager work alone. oneDNN's LSTM hands memory to its
backward pass that single calls made again do not get; it is refused (record under `torch.backends.mkldnn.flags(enabled=False)`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diamond_bench.models.graphs import Outputs, Recording

aten = torch.ops.aten


class NotRecordableError(RuntimeError):
    """The work asks for what a CUDA graph cannot hold."""


# a number or a shape would come to the host
_FORBIDDEN = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal),
    *(aten.nonzero, aten.nonzero_numpy, aten.argwhere, aten.masked_select, aten.masked_scatter_backward),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.repeat_interleave),
}
_TO_THE_HOST = {getattr(torch.Tensor, name) for name in ("tolist", "numpy", "__array__")}
_FROM_THE_HOST = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.Tensor.new_tensor}
"""On a GPU their numbers would have to be copied there; torch's own calls for one number are written on the device."""


@dataclass(frozen=True)
class Call:
    """One call of torch."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    """Where its results belong; none of a call that writes to its arguments."""


def record_tape(work: Callable[[], Outputs], generators: Sequence[torch.Generator] = ()) -> Recording:
    """As `record_cuda_graph`: the work is noted, and nothing that it changed stays changed.

    Raises NotRecordableError where a capture would fail: numbers that come to the host, a generator that was not told of.
    """
    noting = _Noting(generators)
    before = [(generator, generator.get_state()) for generator in (*generators, torch.default_generator)]
    try:
        with _Host(), noting:
            outputs = work()
    finally:
        noting.undo()
        for generator, state in before:
            generator.set_state(state)

    def replay() -> Outputs:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):  # what is noted was below both
            for call in noting.calls:
                results = _tensors(call.func(*call.args, **call.kwargs))
                for kept, result in zip(call.outputs, results, strict=bool(call.outputs)):
                    kept.copy_(result)
        return outputs

    return replay


class _Noting(TorchDispatchMode):
    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._known = {generator._cdata for generator in (*generators, torch.default_generator)}
        self._built: dict[int, torch.UntypedStorage] = {}  # the storages are kept, so that no address comes twice
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CPU"):
            with self:  # in inference mode calls arrive whole that elsewhere arrive in their parts
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        self._check(func, args, kwargs)
        written = list(_written(func, args, kwargs))
        for tensor in written:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._built and storage._cdata not in self._before:
                self._before[storage._cdata] = (storage, storage.clone())
        result = func(*args, **kwargs)
        outputs = _tensors(result)
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        fresh = [tensor.untyped_storage()._cdata not in given for tensor in outputs]
        if written:
            self.calls.append(Call(func, args, kwargs, ()))
        elif any(fresh):
            self.calls.append(Call(func, args, kwargs, outputs))
        for tensor, new in zip(outputs, fresh, strict=True):
            if new:
                self._built[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return result

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        if func.overloadpacket in _FORBIDDEN or _masks(func, args):
            raise NotRecordableError(f"{func}: the host would wait for the device")
        if func.overloadpacket in (aten.mkldnn_rnn_layer, aten.mkldnn_rnn_layer_backward):
            raise NotRecordableError(f"{func}: noted, but cannot be made again call by call")
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Generator) and leaf._cdata not in self._known:
                raise NotRecordableError(f"{func}: draws from a generator that the recorder was not told of")

    def undo(self) -> None:
        """Puts back what was there before the noting."""
        for storage, copy in self._before.values():
            storage.copy_(copy)


class _Host(TorchFunctionMode):
    """Refuses what brings numbers to the host, or from it, and cannot be told by torch's calls."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TO_THE_HOST or func in _FROM_THE_HOST:
            raise NotRecordableError(f"{func}: the host would wait for the device")
        return func(*args, **(kwargs or {}))


def _masks(func: Any, args: Any) -> bool:
    """Whether a call indexes by a boolean mask, which counts what is true; one value put where a mask is true needs no count."""
    if func.overloadpacket not in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index):
        return False
    masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    one_value = len(args) > 2 and args[2].numel() == 1 and len(masks) == 1 == sum(index is not None for index in args[1])
    return bool(masks) and not one_value


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(args[number] if number < len(args) else kwargs.get(argument.name))


def _tensors(values: Any) -> tuple[Tensor, ...]:
    leaves: Iterable[Any] = tree_leaves(values)
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
