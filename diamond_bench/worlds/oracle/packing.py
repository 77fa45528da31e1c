"""Conversion of an environment's saved state to bytes and back."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TENSOR = "tensor"


def pack(saved: Any) -> bytes:
    """Converts plain data (numbers, text, tensors; `envs.saves.save_env`) to bytes."""
    arrays: list[bytes] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            array = value.numpy()
            arrays.append(array.tobytes())
            return {_TENSOR: [str(array.dtype), list(array.shape)]}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    header = json.dumps(plain(saved)).encode()
    return b"".join((len(header).to_bytes(8, "little"), header, *arrays))


def unpack(data: bytes) -> Any:
    """Restores the data that `pack` converted. Further bytes are ignored."""
    end = 8 + int.from_bytes(data[:8], "little")

    def restored(value: Any) -> Any:
        nonlocal end
        if isinstance(value, dict) and value.keys() == {_TENSOR}:
            dtype, shape = value[_TENSOR]
            array = np.frombuffer(data, dtype, int(np.prod(shape)), end).reshape(shape)
            end += array.nbytes
            return torch.from_numpy(array.copy())
        if isinstance(value, dict):
            return {key: restored(item) for key, item in value.items()}
        return [restored(item) for item in value] if isinstance(value, list) else value

    return restored(json.loads(data[8:end]))
