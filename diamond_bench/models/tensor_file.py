"""Reads tensors from somebody else's checkpoint file, checks their names and shapes, and writes such files. The size of a file is bounded
before parsing, only tensors are unpickled, and no code is run."""

import io
import pickle
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from diamond_bench.errors import UserError, nearest
from diamond_bench.reading import read_file

MAX_BYTES = 2 * 2**30
"""Maximum size of a checkpoint file in bytes. The paper's agent has 54 MB."""
_HEAD = 1_000_000
"""Bytes at the beginning of a file, which hold the names of a safetensors file."""
MAX_PICKLE = 500_000
"""Maximum size in bytes of an archive's pickle, and maximum number of reads from a pickle in the older format. The paper's agent has about
56,000 and 27,000."""


def holds_names(file: Path, part: bytes) -> bool:
    """Whether the beginning of a checkpoint file, or its list of tensors, contains this part of a name. Reads at most a few MB.

    False for a file that cannot be read, whose reader then says why.
    """
    try:
        with file.open("rb") as opened:
            if part in opened.read(_HEAD):
                return True
        with zipfile.ZipFile(file) as archive:
            listed = next((entry for entry in archive.infolist() if entry.filename.endswith(".pkl")), None)
            return listed is not None and listed.file_size <= MAX_PICKLE and part in archive.read(listed)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError):
        return False


def read_state_dict(file: Path) -> tuple[dict[str, Tensor], str | None]:
    """Names and float32 tensors in a file, on the CPU, and the narrower type in which some of them were stored.

    Raises UserError with the file's name and the problem.
    """
    if file.is_dir():
        raise UserError(f"{file}: is a folder; expected a checkpoint file (.pt)")
    try:
        data = read_file(file, MAX_BYTES)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    content = _safe(file, data) if file.suffix == ".safetensors" else _unpickled(file, data)
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: expected a state dict, names and tensors, got a {type(content).__name__}")
    if not content:
        raise UserError(f"{file}: expected a state dict, names and tensors, got an empty one")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{file}: expected a state dict, names and tensors, but {name!r} is a {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(f"{file}: tensor {name!r} is not a plain dense one")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in content.values())
    if claimed > len(data):  # with overlapping or repeated memory, a small file may claim any size
        raise UserError(f"{file}: its tensors claim {claimed} bytes, the file has {len(data)}")
    return _float32(file, {name: tensor.detach() for name, tensor in content.items()})


Names = TypeVar("Names", bound=str)
Places = dict[str, tuple[Names, str, tuple[int, ...]]]
"""The component, the name there and the shape of each tensor of a file."""


def matched(state: Mapping[str, Tensor], places: Places[Names]) -> dict[Names, dict[str, Tensor]]:
    """The tensors of a file by component. Raises UserError with the name of one that is unknown, missing, or of another shape."""
    unknown = [name for name in state if name not in places]
    if unknown:
        raise UserError(f"{_counted(unknown, 'unknown tensor')}: {nearest(unknown[0], places)}")
    missing = [name for name in places if name not in state]
    if missing:
        raise UserError(f"{_counted(missing, 'missing tensor')}")
    states: dict[Names, dict[str, Tensor]] = {}
    for name, (component, ours, shape) in places.items():
        if tuple(state[name].shape) != shape:
            raise UserError(f"tensor {name!r} has shape {list(state[name].shape)}; with the others, it should be {list(shape)}")
        states.setdefault(component, {})[ours] = state[name]
    return states


def require_finite(file: Path, state: Mapping[str, Tensor]) -> None:
    """Raises UserError with the name of a tensor that is not finite."""
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{file}: tensor {name!r} has values that are not finite")


def write_state_dict(state: Mapping[str, Tensor], file: Path) -> None:
    """Writes tensors, whole or not at all: as safetensors if the file's name ends so, else as PyTorch's archive. Replaces an existing file.

    Raises UserError if the file cannot be written.
    """
    if file.is_dir():
        raise UserError(f"{file}: is a folder; name a file to write")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            written = Path(folder) / "state"
            if file.suffix == ".safetensors":
                save_file(dict(state), written)
            else:
                torch.save(state, written)
            written.replace(file)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch raises RuntimeError if the disk is full
        raise UserError(f"{file}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


def _counted(names: list[str], what: str) -> str:
    return f"{len(names)} {what}{'s' * (len(names) > 1)}, {'such as ' * (len(names) > 1)}{names[0]!r}"


def _safe(file: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{file}: damaged, or no safetensors file ({error})") from None


class _BoundedReads(io.BytesIO):
    """Bytes that can be read at most MAX_PICKLE times. A pickle is read token by token in Python, and 50 million tokens would take two
    minutes."""

    pieces = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.pieces += 1
        if self.pieces > MAX_PICKLE:
            raise UserError(f"its list of tensors has more than {MAX_PICKLE:,} parts")
        return super().read(size)


def _require_plain(file: Path, data: bytes) -> None:
    """Refuses an archive that holds more bytes than the file: PyTorch does not compress, and a small file could require hours of work. Also
    refuses an archive whose pickle, the list of tensors, is too long."""
    try:
        entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # not an archive, or a damaged one: PyTorch refuses it
        return
    held = sum(entry.file_size for entry in entries)
    if held > len(data):
        raise UserError(f"{file}: a compressed archive that holds {held} bytes in {len(data)}; PyTorch writes checkpoints uncompressed")
    listed = max((entry.file_size for entry in entries if entry.filename.endswith(".pkl")), default=0)
    if listed > MAX_PICKLE:
        raise UserError(f"{file}: its list of tensors has {listed:,} bytes; at most {MAX_PICKLE:,} are read")


def _unpickled(file: Path, data: bytes) -> Any:
    _require_plain(file, data)
    try:
        with warnings.catch_warnings(action="ignore"):  # warnings about files that are refused anyway
            return torch.load(_BoundedReads(data), map_location="cpu", weights_only=True)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except Exception as error:  # a damaged pickle may raise anything
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise UserError(f"{file}: holds more than tensors: it asks for {wanted[1]}, which is not run") from None
        # torch's message is a page of advice
        reason = "" if isinstance(error, pickle.UnpicklingError) else str(error).partition(". ")[0].strip()
        reason = reason if re.search("[a-z]", reason) else ""  # a bare number is torch's error code, without a meaning
        raise UserError(f"{file}: damaged, or no checkpoint{f' ({reason})' * bool(reason)}") from None


def _float32(file: Path, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    widened = None
    for name, tensor in state.items():
        if tensor.dtype in (torch.float16, torch.bfloat16):
            widened = str(tensor.dtype).removeprefix("torch.")
        elif tensor.dtype != torch.float32:
            raise UserError(f"{file}: tensor {name!r} is {str(tensor.dtype).removeprefix('torch.')}; expected float32, float16 or bfloat16")
    return {name: tensor.float().contiguous() for name, tensor in state.items()}, widened
