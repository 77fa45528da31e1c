"""What `execution` may ask of a device. No torch: planning refuses what the device cannot do."""

import os
import shutil
import sys
from dataclasses import replace

from diamond_bench.config import ExecutionConfig
from diamond_bench.errors import UserError


def check_execution(asked: ExecutionConfig, device_type: str, here: bool = True) -> None:
    """Raises UserError for CUDA graphs or streams without CUDA, and (where the job runs `here`) for compiling without a compiler."""
    if asked.cuda_graphs != "none" and device_type != "cuda":
        raise UserError(f"execution.cuda_graphs={asked.cuda_graphs}: a {device_type} has none; use execution.cuda_graphs=none")
    if asked.sampling_streams > 1 and device_type != "cuda":
        raise UserError(f"execution.sampling_streams={asked.sampling_streams}: a {device_type} has none; use execution.sampling_streams=1")
    if here and asked.compile in ("imagination", "all") and not has_compiler(device_type):
        language, hint = ("C", "gcc; CC names another") if device_type == "cuda" else ("C++", "g++; CXX names another")
        raise UserError(
            f"execution.compile={asked.compile}: torch.compile needs a {language} compiler here, and there is none: install one (Debian: "
            f"{hint}) or use execution.compile=none"
        )


def has_compiler(device_type: str) -> bool:
    """Whether there is a compiler where torch.compile looks for one: of C++ for the CPU, of C for what launches Triton's kernels."""
    if device_type == "cuda":
        return any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang") if name)
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")) is not None


def of_training(execution: ExecutionConfig) -> ExecutionConfig:
    """What of it matters to a training that imagines nothing: what would make equal jobs is one identity."""
    return replace(execution, compile="none" if execution.compile == "imagination" else execution.compile, sampling_streams=1)


def of_imagination(execution: ExecutionConfig) -> ExecutionConfig:
    """What of it matters to a job that imagines and updates nothing."""
    return replace(execution, compile="all") if execution.compile == "imagination" else execution


def of_no_compilation(execution: ExecutionConfig) -> ExecutionConfig:
    """What of it matters to a job that compiles and imagines nothing."""
    return replace(execution, compile=ExecutionConfig().compile, sampling_streams=1)
