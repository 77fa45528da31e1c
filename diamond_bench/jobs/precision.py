"""The precision of a job's networks: `execution.precision`, in which `auto` depends on what the device can do."""

import itertools
import socket
from pathlib import Path

import torch

from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext
from diamond_bench.models.precision import Precision
from diamond_bench.store.files import DamagedFile, read_bytes, write_atomic
from diamond_bench.studies.execution import BF16_NAMES, AskedPrecision, bf16_units

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
        raise UserError(
            f"execution.precision=auto: this job began in bf16, and {_lack(device)}; continue it on a machine with units for bf16, or use "
            "execution.precision=fp32 for a separate job that starts over"
        )
    return "bf16" if begun == "bf16" else "fp32"


def check_peer(asked: AskedPrecision, taken: Precision, device: torch.device) -> None:
    """Checks whether a further process of a training can take the precision of the first one.

    Raises UserError with this node's name if `auto` became bf16 there and this process's device has no units for it.
    """
    if asked == "auto" and taken == "bf16" and not has_bf16(device):
        raise UserError(
            f"execution.precision=auto: the training's first process runs in bf16, and on the node {socket.gethostname()} {_lack(device)}; "
            "use nodes of one kind, or execution.precision=fp32"
        )


def kept_precision(asked: AskedPrecision, context: JobContext) -> Precision:
    """`resolved_precision` for a job that stores finished parts. The first attempt on a kind of device writes its choice down, and later
    attempts keep it.

    If the file with the choice is damaged or missing, the precision of the stored parts is unknown. They are set aside with a message.
    Raises UserError like `resolved_precision`.
    """
    device = torch.device(context.device)
    if asked != "auto":
        return asked
    file = context.folder / "checkpoint" / _FILE.format(device.type)
    try:
        begun = _read(file)
    except DamagedFile as error:
        begun, problem = None, str(error)
    else:
        problem = f"{file} is missing"
    precision = resolved_precision(asked, device, begun)
    if begun is None:
        context.check_owner()
        _set_aside(file, device.type, problem, context)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, precision.encode())
    return precision


def _read(file: Path) -> str | None:
    """The choice in a file. None without the file. Raises DamagedFile for any other content."""
    try:
        content = read_bytes(file)
    except FileNotFoundError:
        return None
    if content not in (b"fp32", b"bf16"):
        raise DamagedFile(file, "expected fp32 or bf16")
    return content.decode()


def _set_aside(file: Path, kind: str, problem: str, context: JobContext) -> None:
    """Moves the parts stored on this kind of device, then the file, into a folder of their own. Does nothing if there are none."""
    found = sorted(path for path in file.parent.glob(f"{kind}*") if path.name == kind or path.name.startswith(f"{kind} with "))
    found += [file] if file.exists() or file.is_symlink() else []
    if not found:
        return
    aside = next(path for path in (file.with_name(f"damaged-{number}") for number in itertools.count(1)) if not path.exists())
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
    context.say(f"{problem}, so the precision of the stored parts is unknown; they are set aside in {aside} and computed again")


def _lack(device: torch.device) -> str:
    """Why `has_bf16` is false."""
    if device.type == "cuda":
        return "this GPU has a compute capability below 8.0" if torch.version.hip is None else "this AMD GPU's units for bf16 are unknown"
    return "this CPU's flags are unknown" if bf16_units() is None else f"this CPU has no units for bf16 ({BF16_NAMES})"
