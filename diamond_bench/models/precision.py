"""The arithmetic of a network."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]


def arithmetic(device_type: str, precision: Precision) -> AbstractContextManager[object]:
    """A context for a forward pass: autocast for bf16, and TF32 as requested.

    The TF32 switches are process-wide. They are set here and not reset, so that the backward pass uses them too. By default, torch allows
    TF32 in convolutions, which would make "fp32" untrue.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.autocast(device_type, torch.bfloat16) if precision == "bf16" else nullcontext()
