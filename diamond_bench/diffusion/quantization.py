"""The 8-bit grid of frames: float in [-1, 1] to bytes and back.

The authors truncate. Truncation is not the identity on its own output: on the CPU the levels 1..63 come back one lower (golden README,
section 3.1). So frames that already lie on the grid are converted to bytes with mode "round".
"""

from typing import Literal

import torch
from torch import Tensor

Mode = Literal["truncate", "round", "none"]


def _levels(frames: Tensor, mode: Mode) -> Tensor:
    scaled = frames.clamp(-1, 1).add(1).div(2).mul(255)
    return scaled.round() if mode == "round" else scaled.trunc()


def to_bytes(frames: Tensor, mode: Literal["truncate", "round"] = "round") -> Tensor:
    """Converts float frames, clamped to [-1, 1], to uint8. With mode "round", frames on the grid are unchanged."""
    return _levels(frames, mode).to(torch.uint8)


def from_bytes(frames: Tensor) -> Tensor:
    """Converts uint8 frames to float32 in [-1, 1]: byte / 255 * 2 - 1, in this order, which fixes the last bit."""
    return frames.to(torch.float32).div(255).mul(2).sub(1)


def quantize(frames: Tensor, mode: Mode) -> Tensor:
    """Clamps float frames to [-1, 1] and, unless mode is "none", rounds them to the 8-bit grid. NaN stays NaN and does not become a
    byte."""
    if mode == "none":
        return frames.clamp(-1, 1)
    return _levels(frames, mode).div(255).mul(2).sub(1)
