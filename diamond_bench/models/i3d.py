"""I3D, the video network of the Fréchet video distance (Carreira and Zisserman 2017, RGB stream, trained on Kinetics-400)."""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.models.i3d_cost import EPSILON, LAYERS, LOGITS, MIN_FRAMES, POOLS, SIDE, UNITS, WIDTH, Pool, Unit


class I3d(nn.Module):
    """Maps clips (n, 3, t, 224, 224) in [-1, 1], t of at least 9, to the 400 logits before the softmax, means over time (n, 400).

    The weights are those of `load_weights`. Batch norms are folded into the convolutions, since the network is never trained here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleDict({_key(name): ConvUnit(unit) for name, unit in UNITS.items()})
        self.logits = nn.Conv3d(WIDTH, LOGITS, 1)

    def forward(self, clips: Tensor) -> Tensor:
        if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[2] < MIN_FRAMES or clips.shape[3:] != (SIDE, SIDE):
            raise ValueError(f"I3D: expected clips (n, 3, t, {SIDE}, {SIDE}) with t of at least {MIN_FRAMES}, got {tuple(clips.shape)}")
        x = clips
        for layer in LAYERS:
            x = self._unit(layer, x) if layer in UNITS else self._mixed(layer, x)
            if layer in POOLS:
                x = max_pool(x, POOLS[layer])
        logits: Tensor = self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1))
        return logits.flatten(2).mean(2)

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads float32 tensors by unit: `NAME.kernel` (out, in, t, h, w), `NAME.bias`, `.mean` and `.var` (out,), and `Logits.kernel` and
        `Logits.bias`.

        Raises ValueError if a tensor is missing, unknown, or of another shape.
        """
        state, left = {}, dict(tensors)
        try:
            for name in UNITS:
                kernel, bias, mean, var = (left.pop(f"{name}.{part}").double() for part in ("kernel", "bias", "mean", "var"))
                scale = (var + EPSILON) ** -0.5
                state[f"units.{_key(name)}.conv.weight"] = (kernel * scale[:, None, None, None, None]).float()
                state[f"units.{_key(name)}.conv.bias"] = (bias - mean * scale).float()
            state |= {"logits.weight": left.pop("Logits.kernel"), "logits.bias": left.pop("Logits.bias")}
            self.load_state_dict(state, assign=True)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"the tensors are not those of I3D: {error}") from error
        if left:
            raise ValueError(f"the tensors are not those of I3D: {', '.join(sorted(left)[:3])}")

    def _unit(self, name: str, x: Tensor) -> Tensor:
        found: Tensor = self.units[_key(name)](x)
        return found

    def _mixed(self, name: str, x: Tensor) -> Tensor:
        branches = [self._unit(f"{name}.Branch_0.Conv3d_0a_1x1", x)]
        for branch in (1, 2):
            reduced = self._unit(f"{name}.Branch_{branch}.Conv3d_0a_1x1", x)
            branches.append(self._unit(f"{name}.Branch_{branch}.Conv3d_0b_3x3", reduced))
        branches.append(self._unit(f"{name}.Branch_3.Conv3d_0b_1x1", max_pool(x, Pool(3, 3, 1, 1))))
        return torch.cat(branches, dim=1)


class ConvUnit(nn.Module):
    """A convolution with TensorFlow's "SAME" padding and a ReLU."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.unit = unit
        self.conv = nn.Conv3d(unit.inputs, unit.outputs, unit.kernel, unit.stride, padding=unit.kernel // 2 if unit.stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.unit.stride > 1:  # else the convolution pads, which saves a copy
            x = same_padded(x, (self.unit.kernel,) * 3, (self.unit.stride,) * 3)
        return F.relu_(self.conv(x))


def max_pool(x: Tensor, pool: Pool) -> Tensor:
    """A max-pool with TensorFlow's "SAME" padding, of x (n, c, t, h, w) >= 0. Zeros as padding therefore change no maximum.

    It pools one axis after another. On a CPU this takes a quarter to two thirds of the time of `F.max_pool3d`. The result is the same
    bit for bit.
    """
    kernel, stride = (pool.time, pool.side, pool.side), (pool.time_stride, pool.side_stride, pool.side_stride)
    x = same_padded(x, kernel, stride)
    for axis, size, step in zip((2, 3, 4), kernel, stride, strict=True):
        x = reduce(torch.maximum, x.unfold(axis, size, step).unbind(-1))
    return x


def same_padded(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Zeros around x (n, c, t, h, w), so that each size n becomes ceil(n / stride). An odd one stands at the end, as in TensorFlow."""
    pads: list[int] = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        both = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [both // 2, both - both // 2]
    return F.pad(x, pads) if any(pads) else x


def _key(name: str) -> str:
    return name.replace(".", "/")  # a module's name has no dots
