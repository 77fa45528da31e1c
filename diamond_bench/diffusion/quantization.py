"""The 8-bit grid of frames: float in [-1, 1] to bytes and back.

Truncating is the authors' way and not the identity on its own output: on the CPU the levels 1..63 come back one lower (golden
README, section 3.1). A frame that already lies on the grid is therefore turned into bytes with mode "round".
"""

from typing import Literal

import torch
from torch import Tensor

Mode = Literal["truncate", "round", "none"]


def _levels(frames: Tensor, mode: Mode) -> Tensor:
    scaled = frames.clamp(-1, 1).add(1).div(2).mul(255)
    return scaled.round() if mode == "round" else scaled.trunc()


def to_bytes(frames: Tensor, mode: Literal["truncate", "round"] = "round") -> Tensor:
    """uint8 of float frames, clamped to [-1, 1]; frames on the grid survive mode "round" unchanged."""
    return _levels(frames, mode).to(torch.uint8)


def from_bytes(frames: Tensor) -> Tensor:
    """float32 in [-1, 1] of uint8 frames: byte / 255 * 2 - 1, in this order, which pins the last bit."""
    return frames.to(torch.float32).div(255).mul(2).sub(1)


def quantize(frames: Tensor, mode: Mode) -> Tensor:
    """Float frames clamped to [-1, 1] and, unless mode is "none", put on the 8-bit grid. A NaN stays one instead of turning into a byte."""
    if mode == "none":
        return frames.clamp(-1, 1)
    return _levels(frames, mode).div(255).mul(2).sub(1)
