"""How many jobs share the processor: workers and their threads against the cores that this process may use. Without torch."""

import shlex
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from diamond_bench.config import LocalCluster
from diamond_bench.launch.devices import has_gpu, valid_device
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
    """Whether the jobs that run at once have more threads than there are cores."""
    notes: tuple[str, ...] = ()
    """A sentence about each limit and each excess."""


def workers(plan: Plan, missing: Collection[JobRef], cores: int | None = None) -> Workers:
    """The workers that run the `missing` jobs of a local plan.

    On a CPU at most `cores` // threads jobs run at once, unless the command gives `cluster.num_workers`: idle threads of OpenMP spin, so
    jobs that share a core make each other many times slower. Jobs without networks do not count. `cores`: those that this process may use,
    if None as the operating system states them.
    """
    asked = plan.cluster.num_workers if isinstance(plan.cluster, LocalCluster) else 0
    if valid_device(plan.execution.device).startswith("cuda") or (plan.execution.device == "auto" and has_gpu()):
        return Workers(asked)
    threads = {
        ref: config.execution.num_threads * KINDS[ref.kind].costs.gpus(config)  # here the processes of its GPUs share the CPU
        for ref in missing
        if hasattr(config := plan.jobs[ref].config, "execution")
    }
    most = max(threads.values(), default=1)
    cores = usable_cores() if cores is None else cores
    at_once, fitting = min(asked, _widest(plan, missing, threads)), max(1, cores // most)
    given = any(word.startswith(_KEY) for word in shlex.split(plan.command))
    notes = []
    own = plan.execution.num_threads
    if threads and own > cores:
        notes.append(
            f"execution.num_threads={own}: this process may use {_number(cores, 'core')}, and more threads than cores make jobs slower; "
            f"use execution.num_threads={cores}"
        )
    if at_once > fitting:
        each = f"{_number(most, 'thread')} each, and this process may use {_number(cores, 'core')}"
        notes.append(
            f"{_KEY}{asked}: {at_once} jobs run at once with {each}, so they slow each other down; use {_KEY}{fitting}"
            if given
            else f"{_number(fitting, 'job')} at a time in place of {at_once}: jobs have {each}. To run {at_once} at once, give "
            f"{_KEY}{asked}"
        )
    number = fitting if at_once > fitting and not given else asked
    return Workers(number, most * max(1, min(at_once, number)) > cores, tuple(notes))


def _widest(plan: Plan, missing: Collection[JobRef], counted: Collection[JobRef]) -> int:
    """The largest number of `counted` jobs of equal depth in the graph of the missing jobs. None of these needs another, so they can run at
    once."""
    todo, depth = set(missing), dict[JobRef, int]()
    for ref, spec in plan.jobs.items():  # inputs come first
        if ref in todo:
            depth[ref] = 1 + max((depth[need] for need in spec.inputs.values() if need in depth), default=0)
    return max(Counter(depth[ref] for ref in counted).values(), default=0)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
