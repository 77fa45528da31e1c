"""Which jobs share the processor: workers and their threads against the cores that this process may use. Without torch."""

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate

from diamond_bench.config import LocalCluster
from diamond_bench.launch.devices import has_gpu, valid_device
from diamond_bench.launch.threads import NO_LIMIT, ThreadLimit
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import KINDS
from diamond_bench.studies.execution import usable_cores
from diamond_bench.studies.job_plan import Plan

_KEY = "cluster.num_workers="


@dataclass(frozen=True)
class Workers:
    """The workers of a sweep on this machine."""

    number: int
    """Number of worker processes, as `run_local` takes it: 0 leaves it to the devices."""
    crowded: bool = False
    """Whether jobs that run at once can have more threads than there are cores."""
    notes: tuple[str, ...] = ()
    """A sentence about each limit and each excess."""
    limit: ThreadLimit = NO_LIMIT
    """Which jobs may run at once."""


def workers(plan: Plan, missing: Collection[JobRef], cores: int | None = None) -> Workers:
    """The workers that run the `missing` jobs of a local plan.

    On a CPU the threads of the jobs that run at once fit the cores, unless the command gives `cluster.num_workers`: idle threads of OpenMP
    spin, so jobs that share a core make each other many times slower. Jobs without networks do not count. `cores`: those that this process
    may use, if None as the operating system states them.
    """
    asked = plan.cluster.num_workers if isinstance(plan.cluster, LocalCluster) else 0
    if valid_device(plan.execution.device).startswith("cuda") or (plan.execution.device == "auto" and has_gpu()):
        return Workers(asked)
    threads = {
        ref: config.execution.num_threads * KINDS[ref.kind].costs.gpus(config)  # here the processes of its GPUs share the CPU
        for ref in missing
        if hasattr(config := plan.jobs[ref].config, "execution")
    }
    sizes = sorted(threads.values())
    most = max(sizes, default=0)
    cores = usable_cores() if cores is None else cores
    at_once = most if _is_chain(plan, threads) else sum(sizes[-max(1, asked) :])
    given = any(word.startswith(_KEY) for word in shlex.split(plan.command))
    limited = at_once > max(most, cores) and not given
    notes = []
    own = plan.execution.num_threads
    if threads and own > cores:
        notes.append(
            f"execution.num_threads={own}: this process may use {_number(cores, 'core')}, and more threads than cores make jobs slower; "
            f"use execution.num_threads={cores}"
        )
    if limited:
        fitting = max(1, cores // most)
        notes.append(
            f"jobs with {_number(most, 'thread')} run {'one' if fitting == 1 else fitting} at a time on {_number(cores, 'core')}; to run "
            f"{asked} jobs at once, give {_KEY}{asked}"
        )
    elif at_once > max(most, cores):
        notes.append(
            f"{_KEY}{asked} lets {min(asked, len(sizes))} jobs run at once, with up to {_number(at_once, 'thread')}, and this process "
            f"may use {_number(cores, 'core')}, so they slow each other down; use {_KEY}{max(1, cores // most)}"
        )
    if not limited:
        return Workers(asked, at_once > cores, tuple(notes))
    together = sum(total <= cores for total in accumulate(sizes))  # the smallest ones
    return Workers(min(asked, max(1, together)), most > cores, tuple(notes), ThreadLimit(cores, threads))


def _is_chain(plan: Plan, refs: Collection[JobRef]) -> bool:
    """Whether each of these jobs needs the one before, as in a single training, so that no two of them run at once."""
    longest: dict[JobRef, int] = {}  # jobs of `refs` in the longest chain that ends with a job
    for ref, spec in plan.jobs.items():
        longest[ref] = max((longest.get(need, 0) for need in spec.inputs.values()), default=0) + (ref in refs)
    return max(longest.values(), default=0) == len(refs)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
