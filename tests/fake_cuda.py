"""A GPU that is not there: tensors that say they lie on it, and every wait for it counted.

torch's FakeTensorMode computes shapes, types and devices of tensors and no numbers. Above it a dispatch mode looks at each operation of
our code and notes those at which the host would wait for the device, or that copy between host and device.

torch's autograd engine refuses fake tensors of a device that is not there, so a backward pass only gives each parameter a gradient here.
What it does is looked at on the CPU, with numbers (`counted(any_device=True)`): an operation that waits for a value is the same one
there, and it copies between devices only where the forward pass did.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import _VF, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)

_WAITS = (
    *(
        "aten::_local_scalar_dense",
        "aten::nonzero",
        "aten::masked_select",
        "aten::equal",
        "aten::bincount",
        "aten::_unique",
        "aten::_unique2",
    ),
    *("aten::unique_dim", "aten::unique_consecutive", "aten::repeat_interleave", "aten::histc", "aten::multinomial"),
)
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
_COPIES = ("aten::_to_copy", "aten::copy_", "aten::copy", "aten::_copy_from")
_OURS = tuple(f"/{room}/" for room in ("diamond_bench", "analysis"))


@dataclass(frozen=True)
class Wait:
    """One operation at which the host would wait for the device, or at which memory crosses between them."""

    what: str
    where: str
    """File and function of ours that called it."""


@dataclass
class Seen:
    """What happened under `counted`."""

    waits: list[Wait] = field(default_factory=list)
    on_host: list[Wait] = field(default_factory=list)
    """Operations that made a tensor (of more than one number) on the host."""
    operations: int = 0
    on_device: int = 0
    """Operations that made a tensor on the device: none would mean that nothing was looked at."""

    @property
    def places(self) -> dict[str, int]:
        """How often the host waited, by place."""
        return {place: sum(w.where == place for w in self.waits) for place in sorted({w.where for w in self.waits})}


def _caller() -> str:
    for frame in reversed(traceback.extract_stack()):
        if any(room in frame.filename for room in _OURS) and "site-packages" not in frame.filename:
            return f"{Path(frame.filename).stem}.{frame.name}"
    return "elsewhere"


class _Counting(TorchDispatchMode):
    def __init__(self, any_device: bool) -> None:
        super().__init__()
        self.reported: list[Seen] = []
        self._any_device = any_device

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        cuda = any(tensor.device.type == "cuda" for tensor in inputs)
        if self._any_device:
            if name in _WAITS or (name in _INDEXED and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])):
                self._note(name)
            for seen in self.reported:
                seen.operations += 1
            return func(*args, **kwargs)
        if cuda and name in _WAITS and not (name == "aten::repeat_interleave" and kwargs.get("output_size") is not None):
            self._note(name)
            return _invented(name, args)
        if name in ("aten::_local_scalar_dense", "aten::nonzero"):
            return _invented(name, args)  # of the host's own: no wait
        if name in _INDEXED and args[0].device.type == "cuda":
            indices = [index for index in args[1] if index is not None]
            if any(index.device.type == "cpu" and index.dim() for index in indices):
                self._note(f"{name} by indices on the host")
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self._note(f"{name} by a mask")
                row = torch.zeros(1, dtype=torch.int64, device=args[0].device)
                args = (args[0], [None if i is None else (row if i.dtype in (torch.bool, torch.uint8) else i) for i in args[1]], *args[2:])
        if name == "aten::_fused_adamw_" and self._on_one_device(inputs):
            return None  # in place; torch has no shape rule of it where the rate is a tensor
        kwargs = kwargs | ({"generator": None} if "generator" in kwargs else {})  # a shape needs none
        out = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if name in _COPIES:
            source = args[1] if name in ("aten::copy_", "aten::copy") else args[0]
            target = args[0] if name == "aten::copy_" else out
            if {source.device.type, target.device.type} == {"cpu", "cuda"}:
                self._note(f"{name} from {source.device.type} to {target.device.type}")
        there = {tensor.device.type for tensor in outputs if tensor.dim() or tensor.device.type == "cuda"}
        for seen in self.reported:
            seen.operations += 1
            seen.on_device += "cuda" in there
            if "cpu" in there:
                seen.on_host.append(Wait(name, _caller()))
        return out

    def _on_one_device(self, tensors: Sequence[Tensor]) -> bool:
        for tensor in tensors:
            if tensor.device.type != "cuda":
                self._note("a step of the optimiser with something of it on the host")
        return True

    def _note(self, what: str) -> None:
        for seen in self.reported:
            seen.waits.append(Wait(what, _caller()))


def _invented(name: str, args: Sequence[Any]) -> Any:
    """What an operation whose result depends on numbers gives, where there are none: some number, or one row."""
    of = args[0]
    if name == "aten::_local_scalar_dense":
        return {torch.bool: True, torch.float32: 0.5, torch.float64: 0.5}.get(of.dtype, 0)
    if name == "aten::nonzero":
        return torch.zeros((int(of.device.type == "cuda"), of.dim()), dtype=torch.int64, device=of.device)
    if name == "aten::equal":
        return True
    raise AssertionError(f"{name} on the device: it waits, and what follows cannot be told without numbers")


@contextlib.contextmanager
def counted(any_device: bool = False) -> Iterator[Seen]:
    """Counts what is done inside: inside of `fake_cuda`, or, with `any_device`, what would wait if it were done on a GPU."""
    seen = Seen()
    with contextlib.ExitStack() as stack:
        there = [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, _Counting)]
        counting = there[0] if there else stack.enter_context(_Counting(any_device))  # a mode on a mode would take twice the time
        counting.reported.append(seen)
        try:
            yield seen
        finally:
            counting.reported.pop()


class _Generator(torch.Generator):
    """A generator that says it lies on a device; a fake draw takes any."""

    def __new__(cls, device: torch.device | str = "cpu") -> "_Generator":
        built = super().__new__(cls)
        built.said = torch.device(device)
        return built

    said: torch.device

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA if self.said.type == "cuda" else self.said


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply` without swapping a parameter's memory, which fakes do not allow: new parameters."""
    for child in self.children():
        _apply(child, fn)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            self._parameters[name] = nn.Parameter(fn(parameter.detach()), parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    if isinstance(self, nn.RNNBase):
        self._init_flat_weights()
    return self


def _lstm(frames: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], *_: object) -> tuple[Tensor, Tensor, Tensor]:
    """cuDNN's, which asks a real device what it can do: batch first, one layer, shapes alone."""
    w_ih, w_hh, b_ih, b_hh = weights
    gates = nn.functional.linear(frames, w_ih, b_ih) + nn.functional.linear(state[0].transpose(0, 1), w_hh, b_hh)
    out = gates[..., : w_hh.shape[1]] + state[1].transpose(0, 1)
    return out, out[:, -1][None], out[:, -1][None].clone()


def _lstm_cell(features: Tensor, state: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor]:
    gates = nn.functional.linear(features, w_ih, b_ih) + nn.functional.linear(state[0], w_hh, b_hh)
    h = gates[:, : w_hh.shape[1]] + state[1]
    return h, h.clone()


def _backward(self: Tensor) -> None:
    """A gradient for each parameter that the loss depends on."""
    assert self.grad_fn is not None
    left, done = [self.grad_fn], set()
    while left:
        node = left.pop()
        if node in done:
            continue
        done.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaf.grad = torch.empty_like(leaf)
        left += [following for following, _ in node.next_functions if following is not None]


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Tensors made inside hold no numbers and may say that they lie on `CUDA`; generators too; waiting for all of it does nothing."""
    with contextlib.ExitStack() as stack:
        for target, name, new in (
            (torch, "Generator", _Generator),
            (nn.Module, "_apply", _apply),
            (Tensor, "backward", _backward),
            (Tensor, "numpy", lambda self: np.full(self.shape, 0.5)),
            (_VF, "lstm", _lstm),
            (_VF, "lstm_cell", _lstm_cell),
            (nn.RNNBase, "flatten_parameters", lambda self: None),
            (torch.cuda, "device", lambda device: contextlib.nullcontext()),
            (torch.cuda, "synchronize", lambda device=None: None),
        ):
            stack.enter_context(mock.patch.object(target, name, new))
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        stack.enter_context(mode)
        stack.enter_context(_Counting(any_device=False))  # of what happens before: it gives numbers where some are read
        yield mode
