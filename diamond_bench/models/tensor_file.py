"""Reads tensors from somebody else's checkpoint file. Its size is bounded before parsing, only tensors are unpickled, and no code is
run."""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diamond_bench.errors import UserError
from diamond_bench.reading import read_file

MAX_BYTES = 2 * 2**30
"""Maximum size of a checkpoint file in bytes. The paper's agent has 54 MB."""
MAX_PICKLE = 500_000
"""Maximum size in bytes of an archive's pickle, and maximum number of reads from a pickle in the older format. The paper's agent has about
56,000 and 27,000."""


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
    content = _unpickled(file, data)
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
