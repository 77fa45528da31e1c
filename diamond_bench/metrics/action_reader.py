"""The metric action_accuracy: a trained inverse-dynamics network reads actions from pairs of frames."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.errors import UserError
from diamond_bench.models.inverse_dynamics import ActionCode, InverseDynamics
from diamond_bench.models.precision import arithmetic
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.store.files import DamagedFile, read_json, write_atomic, write_json
from diamond_bench.store.rows import Row

Array = NDArray[np.float64]

FOLDER, DESCRIPTION = "inverse_dynamics", "model.json"
_WEIGHTS = "model.safetensors"
_CHUNK = 256
_SIDELESS = 1e-9
"""A number nearer than this to the middle of its range, in half ranges, has no side."""


@dataclass(frozen=True)
class ActionReader:
    """An inverse-dynamics network, and the meaning of its output."""

    network: InverseDynamics
    code: ActionCode

    def read(self, before: Tensor, after: Tensor) -> tuple[Array, Array]:
        """The values read from frames (..., 3, h, w) uint8 before and after an action: from both frames, and from the first one alone.
        Both are (..., k), see `ActionCode.values`."""
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        pairs = zip(before.flatten(0, -4).split(_CHUNK), after.flatten(0, -4).split(_CHUNK), strict=True)
        with torch.inference_mode(), arithmetic(before.device.type, "fp32"):
            for one, other in pairs:
                for values, output in zip(found, self.network(from_bytes(one), from_bytes(other)), strict=True):
                    values.append(self.code.decode(output).double().cpu())
        both, first = (torch.cat(values).reshape(*before.shape[:-3], -1).numpy() for values in found)
        return both, first

    def values(self, actions: Tensor) -> Array:
        """The values (..., k) of actions (...) or (..., k)."""
        found: Array = self.code.values(actions).double().cpu().numpy()
        return found


def save_reader(reader: ActionReader, channels: int, frames: FrameSpec, folder: Path) -> None:
    """Writes inverse_dynamics/ into a job's folder. The description, which marks it as complete, is written last."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in reader.network.state_dict().items()}
    write_atomic(folder / FOLDER / _WEIGHTS, safetensors.torch.save(weights))
    code = reader.code
    content = {"actions": code.spec.to_plain(), "classes": list(code.classes), "channels": channels, "frames": list(frames.sides)}
    write_json(folder / FOLDER / DESCRIPTION, content)


def read_code(content: object) -> ActionCode:
    """The code in the content of a description. Raises KeyError, TypeError or ValueError if it is damaged."""
    if not isinstance(content, dict):
        raise TypeError("expected an object")
    return ActionCode(ActionSpec.from_plain(content["actions"]), tuple(int(number) for number in content["classes"]))


def load_reader(folder: Path, device: torch.device) -> ActionReader:
    """The network of a job. Raises UserError if it is missing or damaged."""
    try:
        content = read_json(folder / FOLDER / DESCRIPTION)
        code = read_code(content)
        height, width = content["frames"]
        network = InverseDynamics(int(content["channels"]), FrameSpec(int(height), int(width)), code.width)
        network.load_state_dict(safetensors.torch.load((folder / FOLDER / _WEIGHTS).read_bytes()))
    except (OSError, DamagedFile, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder / FOLDER}: no inverse-dynamics network that can be read ({error})") from error
    return ActionReader(network.to(device).eval(), code)


def accuracy_rows(code: ActionCode, imposed: Array, read: Array, first: Array | None = None, baseline: str = "") -> list[Row]:
    """Rows for values that were imposed and read, (..., k). `first`: those read from the first frame alone.

    Key columns and classes count as right or wrong. Ordered columns, which are continuous or have more than two values, have a sign, which
    is the side of the middle of their range, and an error in shares of that range.
    """
    rows = []
    for name, of in (("action_accuracy", _accuracy), ("action_sign_accuracy", _sign_accuracy), ("action_value_error", _value_error)):
        value = of(code, imposed, read)
        if value is not None:
            rows.append(Row(name, value, baseline=baseline))
            if first is not None and name != "action_value_error":
                rows.append(Row(f"{name}_gain", value - (of(code, imposed, first) or 0.0), baseline=baseline))
    return rows


def scores(code: ActionCode, imposed: Array, read: Array, lags: int, valid: NDArray[np.bool_]) -> Array:
    """Share of columns that are read rightly if the action of each lag is the right one, (lags, n, t).

    Continuous actions are read rightly if the side of the middle of their range is right. NaN where the action of that lag was not imposed,
    has no side, or the frame is not `valid`.

    Args:
        imposed, read: values (n, t, k).
        lags: number of lags, at most t.
        valid: whether each frame counts, (n, t).
    """
    found = np.full((lags, *read.shape[:2]), np.nan)
    for lag in range(lags):
        frames = slice(lag, None)
        found[lag, :, frames] = _right(code, imposed[:, : read.shape[1] - lag], read[:, frames])
    return np.where(valid, found, np.nan)


def _right(code: ActionCode, imposed: Array, read: Array) -> Array:
    if not code.spec.low:
        share: Array = (imposed == read).mean(axis=-1)
        return share
    true, found = _scaled(code, imposed), _scaled(code, read)
    sided = np.abs(true) > _SIDELESS
    right = (sided & (np.sign(true) == np.sign(found))).sum(axis=-1)
    side_share: Array = np.divide(right, sided.sum(axis=-1), out=np.full(right.shape, np.nan), where=sided.any(axis=-1))
    return side_share


def confusion(imposed: Array, read: Array, number: int) -> NDArray[np.int64]:
    """Counts of imposed and read classes, (n, number, number), of values (n, t, 1). Row: imposed. Column: read."""
    pairs = (imposed[..., 0] * number + read[..., 0]).astype(np.int64)
    return np.stack([np.bincount(row, minlength=number**2).reshape(number, number) for row in pairs])


def _accuracy(code: ActionCode, imposed: Array, read: Array) -> float | None:
    return None if code.spec.low else float((imposed == read).mean())


def _ordered(code: ActionCode) -> list[int]:
    return [i for i, size in enumerate(code.sizes) if size != 2] if code.spec.trailing else []


def _scaled(code: ActionCode, values: Array) -> Array:
    """The ordered columns, scaled to [-1, 1]."""
    chosen = _ordered(code)
    low, high = (np.array(ends, np.float64)[chosen] for ends in code.spec.bounds)
    scaled: Array = 2 * (values[..., chosen] - low) / np.maximum(high - low, 1e-12) - 1
    return scaled


def _sign_accuracy(code: ActionCode, imposed: Array, read: Array) -> float | None:
    if not _ordered(code):
        return None
    true, found = _scaled(code, imposed), _scaled(code, read)
    sided = np.abs(true) > _SIDELESS
    return float((np.sign(true) == np.sign(found))[sided].mean()) if sided.any() else None


def _value_error(code: ActionCode, imposed: Array, read: Array) -> float | None:
    return float(np.abs(_scaled(code, imposed) - _scaled(code, read)).mean() / 2) if _ordered(code) else None
