"""Turns a cluster profile into submitit's parameters for each kind of job, and refuses invalid profiles before anything is submitted."""

import math
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_bench.config import SlurmCluster
from diamond_bench.errors import UserError, nearest
from diamond_bench.jobs.hosts import NODES
from diamond_bench.launch.mps import check_packed_mps
from diamond_bench.launch.resources import resources
from diamond_bench.launch.slurm.imports import without_logging
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import KINDS
from diamond_bench.store.states import JobState
from diamond_bench.studies.estimate import checkpoint_intervals

if TYPE_CHECKING:
    from submitit import SlurmExecutor

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_OURS = ("array", "comment", "dependency", "error", "job-name", "kill-on-invalid-dep", "no-requeue", "output", "requeue", "signal", "wrap")
"""Options of sbatch that a profile may not set, because the submission sets them."""
_KEYS = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus",
    "exclude": "exclude",
    "gpus-per-node": "gpus",
    "gres": "gres",
    "mem": "memory",
    "nodes": "train_world_model.nodes",
    "partition": "partition",
    "qos": "qos",
    "time": "time",
}
"""Options of sbatch that correspond to keys of the profile."""
_SETUP = ("export SLURM_EXPORT_ENV=ALL", "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK")
"""Shell lines before the task: srun passes on the environment whatever the site's default is, and all CPUs of the allocation."""
_TEARDOWN = (
    "status=$?",
    "task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}",  # the last element's own id is the array's
    f"if [ $status -eq {128 + signal.SIGUSR2} ]; then scontrol requeue $task && sleep 120; fi",
    "exit $status",
)
"""Shell lines after the task. If SLURM's signal arrived before Python could handle it, the shell requests the requeue instead."""


def minutes(text: str, key: str) -> int:
    """Parses a time limit in SLURM's format (minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS) to whole minutes, rounded up.

    Raises UserError that names `key`.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UserError(f"{key}={text!r}: expected a time such as 90 (minutes), 4:00:00 or 2-12:00:00 (two and a half days)")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:
        hours, mins, seconds = (*parts, 0, 0, 0)[:3]
    elif len(parts) == 3:
        hours, mins, seconds = parts
    else:
        hours, mins, seconds = 0, parts[0], (*parts, 0)[1]
    total = ((int(match["days"] or 0) * 24 + hours) * 60 + mins) * 60 + seconds
    if total < 60:
        raise UserError(f"{key}={text!r}: SLURM's shortest limit is a minute")
    return math.ceil(total / 60)


def time_key(cluster: SlurmCluster, kind: str) -> str:
    """The key that sets a kind's time limit."""
    own = getattr(cluster, kind, None)
    return f"cluster.{kind}.time" if own is not None and own.time is not None else "cluster.time"


def limit_of(cluster: SlurmCluster, kind: str) -> int:
    """A kind's time limit in minutes."""
    return minutes(str(resources(cluster, kind).time), time_key(cluster, kind))


def check_profile(cluster: SlurmCluster) -> None:
    """Raises UserError for values of a profile that are impossible or inconsistent."""
    for kind in KINDS:
        if limit_of(cluster, kind) * 60 <= cluster.signal_seconds:
            raise UserError(
                f"{time_key(cluster, kind)}={resources(cluster, kind).time}: the jobs are asked to save {cluster.signal_seconds} s before "
                "the limit (cluster.signal_seconds), so that no time would be left to work; raise the one or lower the other"
            )
    check_packed_mps(cluster, tuple(KINDS))
    for option in cluster.extra or ():
        name = option.partition("=")[0].lstrip("-")
        if name in _KEYS:
            raise UserError(f"cluster.extra: {option!r}: set cluster.{_KEYS[name]} instead")
        if name in _OURS or not re.fullmatch(r"[a-z][a-z-]*", name):
            why = "diamond-bench sets it itself" if name in _OURS else "expected an option of sbatch, such as mail-type=FAIL"
            raise UserError(f"cluster.extra: {option!r}: {why}")


def check_root(root: Path) -> None:
    r"""Raises UserError if SLURM would misread the store's name: % and \ are placeholders in names of logs, and a line break ends a line of
    the file for sbatch."""
    if re.search(r"[%\\\x00-\x1f]", str(root)):
        raise UserError(
            f"output_dir={str(root)!r}: SLURM cannot write logs below a folder with % or \\ or a line break in its name; choose another"
        )


def check_partition(cluster: SlurmCluster, kind: str, limits: Mapping[str, str]) -> None:
    """Raises UserError if a kind's partition is not among the cluster's `limits`, or allows less time than requested: SLURM would let such
    a job wait forever."""
    asked = resources(cluster, kind)
    for name in (asked.partition or "").split(","):
        if name not in limits:
            if not name:  # the cluster has no default: sbatch reports what it does with that
                continue
            raise UserError(f"cluster.partition={name}: the cluster has no such partition: {nearest(name, filter(None, limits))}")
        most = limits[name]
        if re.match(r"\d", most) and limit_of(cluster, kind) > minutes(most, name):
            where = f"partition {name}" if name else "the default partition"
            raise UserError(f"{time_key(cluster, kind)}={asked.time}: {where} allows {most} at most")


def check_limits(
    cluster: SlurmCluster, specs: Mapping[JobRef, JobSpec], todo: Iterable[JobRef], store: Store, states: Mapping[JobRef, JobState]
) -> None:
    """Raises UserError if a training uses more GPUs than are requested, or if the interval between its checkpoints exceeds its time limit:
    such a job would never make progress."""
    for ref in todo:
        if ref.kind in KINDS:
            processes = KINDS[ref.kind].costs.gpus(specs[ref].config)
            _check_nodes(cluster, ref.kind, processes)
            _check_gpus(cluster, ref.kind, processes)
    on_gpu = {kind: bool(resources(cluster, kind).gpus) for kind in KINDS}
    apart_of = checkpoint_intervals(specs, (ref for ref in todo if ref.kind in KINDS), store, states, on_gpu.__getitem__)
    for ref, (apart, key, basis) in apart_of.items():
        if apart > limit_of(cluster, ref.kind) * 60 - cluster.signal_seconds:
            asked = f"{time_key(cluster, ref.kind)}={resources(cluster, ref.kind).time}"
            raise UserError(
                f"{asked}: about {math.ceil(apart / 60)} minutes pass between two checkpoints of a {ref.kind} ({key}; {basis}), so that "
                "one that is killed would never get on; raise the one or lower the other"
            )


def _check_nodes(cluster: SlurmCluster, kind: str, processes: int) -> None:
    asked = resources(cluster, kind)
    nodes, key = asked.nodes or 1, f"cluster.{kind}.nodes={asked.nodes}"
    if processes % nodes:
        here = "one process" if processes == 1 else f"{processes} processes"
        raise UserError(
            f"{key}: a {kind} here has {here}, which the nodes cannot share equally; set "
            f"execution.num_processes={math.ceil(processes / nodes) * nodes} or cluster.{kind}.nodes=1"
        )
    if nodes > 1 and (asked.packed or 1) > 1:
        raise UserError(f"{key}: jobs that share an allocation (packed={asked.packed}) run on one node; use packed=1")
    if nodes > 1 and cluster.scratch:
        raise UserError(f"{key}: only the first node would have the copy in cluster.scratch={cluster.scratch}; leave cluster.scratch out")


def _check_gpus(cluster: SlurmCluster, kind: str, processes: int) -> None:
    asked = resources(cluster, kind)
    needed = processes // (asked.nodes or 1)
    if asked.gpus and cluster.gres is None and asked.gpus < needed:
        cpus = f" and cluster.{kind}.cpus={(asked.cpus or 1) * needed // asked.gpus}"
        raise UserError(
            f"execution.num_processes={processes}: each process uses a GPU, and a {kind} requests {asked.gpus}; set "
            f"cluster.{kind}.gpus={needed}{cpus}"
        )


def executor(cluster: SlurmCluster, batch: Batch, folder: Path, dependency: str | None) -> "SlurmExecutor":
    """submitit's executor for a batch, with its own `folder` in the store. Nothing is submitted or written."""
    with without_logging():
        import submitit

    asked = resources(cluster, batch.kind)
    wants_gpu = bool(asked.gpus)
    by_gres = wants_gpu and cluster.gres is not None
    further: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    several: dict[str, Any] = {}
    setup = [*_SETUP, _seen(folder), *(cluster.setup or ())]
    if (asked.nodes or 1) > 1:  # the task runs on the first node, and starts the processes of the others (jobs/hosts.py)
        several = {"nodes": asked.nodes, "ntasks_per_node": 1, "srun_args": ["--nodes=1", "--ntasks=1"]}
        setup.insert(0, f"export {NODES}={asked.nodes}")
    for option in cluster.extra or ():
        key, equals, value = option.lstrip("-").partition("=")
        further[key] = value if equals else True
    parameters = {
        "job_name": batch.label,
        "comment": batch.comment,
        "dependency": dependency,
        "partition": asked.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "gres": cluster.gres if by_gres else None,
        "gpus_per_node": asked.gpus if wants_gpu and not by_gres else None,
        "cpus_per_task": asked.cpus,
        "mem": asked.memory,
        "time": batch.minutes,
        "signal_delay_s": cluster.signal_seconds,
        "setup": setup,
        "teardown": list(_TEARDOWN),
        "wckey": None,
        "stderr_to_stdout": True,
        "array_parallelism": cluster.parallelism or 10**6,  # submitit writes the smaller of this and the array's size
        "additional_parameters": further,
        **several,
    }
    slurm_executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=10**6, python=f"{shlex.quote(sys.executable)} -P")
    slurm_executor.parameters.update(parameters)  # directly: `update_parameters` would read mem as a number of gigabytes
    return slurm_executor


def sbatch_file(slurm_executor: "SlurmExecutor", num_tasks: int) -> str:
    """The sbatch file for submitting `num_tasks` tasks."""
    slurm_executor.parameters["map_count"] = num_tasks if num_tasks > 1 else None
    text = slurm_executor._make_submission_file_text(slurm_executor._submitit_command_str, "")
    del slurm_executor.parameters["map_count"]
    return str(text)


def _seen(folder: Path) -> str:
    """A shell line that stops a task on a node that cannot see the store."""
    record = shlex.quote(str(folder / "batch.json"))
    where = f'"diamond-bench: node $(hostname) does not see" {shlex.quote(str(folder))}'
    return f"test -e {record} || {{ echo {where}: output_dir must lie on a file system shared with the nodes >&2; exit 66; }}"
