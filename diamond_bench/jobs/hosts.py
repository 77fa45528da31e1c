"""The nodes of the SLURM job in which this process runs. Without torch."""

import os
import subprocess
from collections.abc import Sequence


def num_nodes() -> int:
    """Number of nodes of the SLURM job, and 1 outside SLURM."""
    return int(os.environ.get("SLURM_JOB_NUM_NODES", 1))


def hosts() -> list[str]:
    """Names of the nodes, this one first. Outside SLURM and in a job of one node, this is one empty name."""
    if num_nodes() == 1:
        return [""]
    listed = subprocess.run(
        ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], check=True, capture_output=True, text=True
    ).stdout.split()
    return sorted(listed, key=lambda name: name != os.environ["SLURMD_NODENAME"])


def on_host(host: str, command: Sequence[str]) -> list[str]:
    """The command that runs another command on a node of this SLURM job, with stdin passed on. An empty name is this node."""
    return ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}", *command] if host else [*command]
