"""Peak memory of one job, although a worker's process runs many."""

import contextlib
import resource
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Starts the measurement of a job."""
    if device.type == "cuda":
        torch.cuda.init()  # the job may be the first of its process
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # not Linux: only the process's own peak is available
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """The maximum memory in use since `reset_peak`, in bytes: tensors on a GPU, the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reserved_bytes(device: torch.device) -> int:
    """Like `peak_bytes`, but on a GPU all memory that torch reserved, which no other process can use."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_bytes(device)
