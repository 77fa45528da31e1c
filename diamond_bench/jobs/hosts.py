"""The nodes that share the job of this process. Without torch."""

import os
import subprocess
from collections.abc import Sequence

from diamond_bench.errors import UserError

NODES = "DIAMOND_BENCH_NODES"
"""The environment variable with the number of nodes. Only the tasks that a sweep submits set it. In a user's own allocation, a job stays on
its machine."""


def num_nodes() -> int:
    """Number of nodes that share the job."""
    return int(os.environ.get(NODES, 1))


def hosts() -> list[str]:
    """Names of the nodes, this one first. Of a single node, this is one empty name. Raises UserError if SLURM does not name them."""
    if num_nodes() == 1:
        return [""]
    try:
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return sorted(listed, key=lambda name: name != os.environ["SLURMD_NODENAME"])
    except (KeyError, OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"the names of the {num_nodes()} nodes of this SLURM job cannot be read ({error})") from None


def too_few_gpus(processes: int, gpus: int, first: int) -> UserError:
    """The error of a job of so many processes, each on a GPU, if each of its nodes has `gpus` GPUs and the job uses cuda:`first` and those
    after it."""
    count = f"{gpus} GPU{'s' * (gpus > 1)}"
    there = f"this machine has {count}" if num_nodes() == 1 else f"the {num_nodes()} nodes of this SLURM job have {count} each"
    begin = f", and execution.device=cuda:{first} is the first of the job" * (first > 0)
    return UserError(
        f"execution.num_processes={processes}: {there}{begin}; use at most {(gpus - first) * num_nodes()}, or execution.device=cpu"
    )


def on_host(host: str, command: Sequence[str]) -> list[str]:
    """The command that runs another command on a node of this SLURM job, with stdin passed on. An empty name is this node."""
    return ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}", *command] if host else [*command]
