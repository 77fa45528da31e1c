"""What `execution` may ask of a device. No torch: planning refuses what the device cannot do."""

import shutil
from dataclasses import replace

from diamond_bench.config import ExecutionConfig
from diamond_bench.errors import UserError


def check_execution(asked: ExecutionConfig, device_type: str, here: bool = True) -> None:
    """Raises UserError for CUDA graphs without CUDA, and (where the job runs `here`) for compiling on a CPU without a C++ compiler."""
    if device_type == "cuda":
        return
    if asked.cuda_graphs != "none":
        raise UserError(f"execution.cuda_graphs={asked.cuda_graphs}: a {device_type} has none; use execution.cuda_graphs=none")
    if here and asked.compile in ("imagination", "all") and not has_compiler():
        hint = "install one (Debian: g++) or use execution.compile=none"
        raise UserError(f"execution.compile={asked.compile}: on the CPU torch.compile needs a C++ compiler, and none is here: {hint}")


def has_compiler() -> bool:
    """Whether there is a C++ compiler that torch.compile can use on the CPU."""
    return any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def of_training(execution: ExecutionConfig) -> ExecutionConfig:
    """What of it matters to a training that imagines nothing: what would make equal jobs is one identity."""
    return replace(execution, compile="none") if execution.compile == "imagination" else execution


def of_imagination(execution: ExecutionConfig) -> ExecutionConfig:
    """What of it matters to a job that imagines and updates nothing."""
    return replace(execution, compile="all") if execution.compile == "imagination" else execution


def of_no_compilation(execution: ExecutionConfig) -> ExecutionConfig:
    """What of it matters to a job that compiles nothing."""
    return replace(execution, compile=ExecutionConfig().compile)
