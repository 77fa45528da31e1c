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


def on_host(host: str, command: Sequence[str]) -> list[str]:
    """The command that runs another command on a node of this SLURM job, with stdin passed on. An empty name is this node."""
    return ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}", *command] if host else [*command]
