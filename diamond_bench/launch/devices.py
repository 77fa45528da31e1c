"""The available devices. The parent asks the driver, so that it need not import torch. The worker asks torch."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diamond_bench.config import ExecutionConfig
from diamond_bench.errors import UserError
from diamond_bench.jobs.hosts import num_nodes, too_few_gpus
from diamond_bench.studies.execution import check_execution


def worker_devices(device: str, num_workers: int, gpus_per_job: int = 1) -> list[str]:
    """The device of each worker: `num_workers` of them, distributed over the GPUs in turn. 0 means one per GPU, or one if there is no GPU.

    `device` is auto, cpu, cuda or cuda:N. A job that uses several GPUs uses those that follow its worker's. Raises UserError for any other
    device, for a GPU that the machine does not show, and for a job that uses more than there are. The worker checks whether torch can use
    the GPU. In a SLURM job of several nodes, a job uses an equal share of its GPUs on each.
    """
    check_there(device)
    gpus = 0 if device == "cpu" else _count_gpus()
    here, first = -(-gpus_per_job // num_nodes()), int(device.partition(":")[2] or 0)
    if 0 < gpus < first + here:
        raise too_few_gpus(gpus_per_job, gpus, first)
    if gpus < 2 or device.startswith("cuda:"):
        return [device] * max(1, num_workers)
    places = gpus // here
    return [f"cuda:{i % places * here}" for i in range(num_workers or places)]


def check_there(device: str) -> None:
    """Raises UserError if `device` is a GPU that this machine does not show."""
    if not valid_device(device).startswith("cuda"):
        return
    if not has_gpu():
        raise UserError(f"execution.device={device}: this machine shows no GPU; use execution.device=auto or cpu")
    count, index = _count_gpus(), int(device.partition(":")[2] or 0)
    if 0 < count <= index:  # 0 means that the driver's tool does not state the number: the worker finds out
        raise UserError(
            f"execution.device={device}: this machine has {count} (cuda:0 to cuda:{count - 1}); use one of them, or execution.device=auto"
        )


def check_devices(executions: Iterable[ExecutionConfig], here: bool) -> None:
    """Raises UserError for an invalid device, and for settings of execution that a CPU does not support. `here`: whether jobs run on this
    machine, so that `auto` can be resolved."""
    for execution in executions:
        device = valid_device(execution.device)
        if device == "cpu" or (device == "auto" and here and not has_gpu()):
            check_execution(execution, "cpu", here)


def resolve_device(device: str, key: str = "execution.device") -> str:
    """torch's name of the device that `device` means. Raises UserError for a GPU that is not available. Imports torch unless it is the
    CPU. `key`: the setting that names the device, for messages."""
    if valid_device(device, key) == "cpu":
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        if not count and _promised_gpu():
            raise UserError(
                "SLURM gave this task a GPU that torch cannot use (the node's driver?); on the CPU the job would take far too long"
            )
        return "cuda" if count else "cpu"
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        there = f"this machine has {count} (cuda:0 to cuda:{count - 1})" if count else "torch finds no GPU here"
        raise UserError(f"{key}={device}: {there}; use {key}=auto or cpu")
    return device


def _promised_gpu() -> bool:
    """Whether this process runs in a SLURM task that was given one of the machine's GPUs."""
    given = os.environ.get("SLURM_JOB_ID") and os.environ.get("CUDA_VISIBLE_DEVICES")
    return bool(given) and any(Path("/dev").glob("nvidia[0-9]*"))


def device_name(device: str) -> str:
    """The model of a resolved device, for the record."""
    torch: Any = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def processor() -> str:
    """Model and instruction sets of the processor, as the operating system reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return " ".join(dict.fromkeys(line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "flags", "Features"))))


def valid_device(device: str, key: str = "execution.device") -> str:
    """Returns `device`. Raises UserError if it is not a valid name of a device. `key`: the setting that names it."""
    name, colon, index = device.partition(":")
    if device in ("auto", "cpu", "cuda") or (name == "cuda" and colon and index.isdecimal()):
        return device
    raise UserError(f"{key}={device!r}: expected auto, cpu, cuda or cuda:N")


def has_gpu() -> bool:
    """Whether this process sees a GPU (NVIDIA, AMD or WSL). Asks the operating system, not torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None and _count_gpus() == 0:
        return False
    return shutil.which("nvidia-smi") is not None or any(any(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "kfd", "dxg"))


def _count_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
