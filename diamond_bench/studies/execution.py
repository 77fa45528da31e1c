"""Checks `execution` against a device, so that planning refuses what the device cannot do. Without torch."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from diamond_bench.config import ExecutionConfig
from diamond_bench.errors import UserError

AskedPrecision = Literal["fp32", "tf32", "bf16", "auto"]
"""The values of `execution.precision`."""
COMPILE_PAYS_OFF_FLOPS = {"cuda": 3e16, "cpu": 5e13}
"""FLOP of a job above which compiling pays off: the work of about 20 minutes on a device, compared with one to three minutes of compilation
(docs/performance.md)."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Names of the instruction sets with bf16 products, as Linux lists them on x86 and ARM."""
BF16_NAMES = "avx512_bf16 or amx_bf16, on ARM bf16"
"""The same names in messages."""


def bf16_units() -> bool | None:
    """Whether this CPU multiplies in bf16. None without a list of its instruction sets, such as on macOS."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return bool(_BF16_FLAGS.intersection(flags[0])) if flags else None


def device_type(device: str, gpu: bool | None = None) -> str:
    """`cpu` or `cuda`: the kind of device that `execution.device` means on this machine. Asks the operating system, not torch.

    `gpu`: whether jobs see a GPU (`launch.devices.has_gpu`). None: whether the machine has an NVIDIA GPU, even a hidden one.
    """
    if device == "auto":
        return "cuda" if (Path("/dev/nvidia0").exists() if gpu is None else gpu) else "cpu"
    return "cuda" if device.startswith("cuda") else "cpu"


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_execution(asked: ExecutionConfig, device_type: str, here: bool = True) -> None:
    """Raises UserError for CUDA graphs or streams without CUDA, and (if the job runs `here`) for compiling without a compiler."""
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
    """Whether the compiler that torch.compile uses is installed: C++ for the CPU, C for launching Triton's kernels."""
    if device_type == "cuda":
        return any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang") if name)
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")) is not None


def of_training(execution: ExecutionConfig) -> ExecutionConfig:
    """The settings that affect a training without imagination, so that equal jobs have one identity."""
    compiled = "none" if execution.compile == "imagination" else execution.compile
    return replace(execution, compile=compiled, sampling_streams=1, encode_past="every_call")


def of_imagination(execution: ExecutionConfig) -> ExecutionConfig:
    """The settings that affect a job that imagines and updates nothing."""
    return replace(execution, compile="all" if execution.compile == "imagination" else execution.compile, num_processes=1)


def of_no_compilation(execution: ExecutionConfig) -> ExecutionConfig:
    """The settings that affect a job that compiles and imagines nothing."""
    return replace(execution, compile=ExecutionConfig().compile, sampling_streams=1, encode_past="every_call", num_processes=1)
