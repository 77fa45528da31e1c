"""The precision of a job's networks: `execution.precision`, in which `auto` depends on what the device can do."""

from pathlib import Path

import torch

from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext
from diamond_bench.models.precision import Precision
from diamond_bench.store.files import write_atomic
from diamond_bench.studies.execution import AskedPrecision, bf16_units

_LEAST_CAPABILITY = (8, 0)
"""CUDA's compute capability from which GPUs multiply in bf16 (Ampere)."""
_FILE = "precision-{}.txt"
"""Name in a job's checkpoint/, by kind of device."""


def has_bf16(device: torch.device) -> bool:
    """Whether a device has units for bf16, by its capability flags: those of the processor, or CUDA's compute capability. False if
    unknown, as on an AMD GPU."""
    if device.type == "cuda":
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY
    return bf16_units() is True


def resolved_precision(asked: AskedPrecision, device: torch.device, begun: str | None = None) -> Precision:
    """The precision of a job's networks. `begun`: that of the job's first attempt on this kind of device, which auto keeps.

    Raises UserError if the job began in bf16 and this device has no units for it.
    """
    if asked != "auto":
        return asked
    if begun not in ("fp32", "bf16"):
        return "bf16" if has_bf16(device) else "fp32"
    if begun == "bf16" and not has_bf16(device):
        lacks = "GPU has a compute capability below 8.0" if device.type == "cuda" else "CPU has no avx512_bf16 or amx_bf16"
        raise UserError(
            f"execution.precision=auto: this job began in bf16, and this {lacks}; continue it on a machine with units for bf16, or use "
            "execution.precision=fp32 for a separate job that starts over"
        )
    return "bf16" if begun == "bf16" else "fp32"


def kept_precision(asked: AskedPrecision, context: JobContext) -> Precision:
    """`resolved_precision` for a job that stores finished parts. The first attempt on a kind of device writes its choice down, and later
    attempts keep it. Raises UserError like `resolved_precision`."""
    device = torch.device(context.device)
    if asked != "auto":
        return asked
    file = context.folder / "checkpoint" / _FILE.format(device.type)
    precision = resolved_precision(asked, device, _read(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, precision.encode())
    return precision


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
