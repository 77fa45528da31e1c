"""Turns jobs into SLURM arrays and their dependencies. Pure: SLURM is not asked.

submitit supports only arrays numbered from 0, with one dependency for the whole array. Two forms are enough:

- *together*: all elements wait for the same tasks (`afterok:7_2`), as the trainings on one dataset do
- *aligned*: element i waits for element i of another array (`aftercorr:7`), as one evaluation of each training does. The k-th evaluations
  of all trainings form one array each, so that an evaluation starts when its own training is done.

Whichever form needs fewer arrays is used. Tasks with the most dependents come first in an array, so that the k-th dependents of an array
always belong to its first elements.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from diamond_bench.store.jobspec import JobRef, JobSpec

Element = tuple[int, int]
"""(number of the array in the list, number of its element)."""
Condition = Element | str
"""A task to wait for: an element of one of these arrays, or SLURM's id of a task submitted earlier."""


@dataclass(frozen=True)
class Array:
    """Tasks to submit together."""

    kind: str
    tasks: tuple[tuple[JobRef, ...], ...]
    aligned: int | None = None
    """The array whose element i must end before element i begins."""
    after: tuple[Condition, ...] = ()
    """Tasks that must end before any element begins."""


@dataclass(frozen=True)
class _Task:
    jobs: tuple[JobRef, ...]
    after: frozenset[Condition]


def arrays(
    specs: Mapping[JobRef, JobSpec],
    todo: Sequence[JobRef],
    in_flight: Mapping[JobRef, str],
    packed: Callable[[str], int],
    most: int,
) -> list[Array]:
    """The arrays that run `todo`, in dependency order.

    `in_flight` has SLURM's ids of tasks submitted earlier that still have a job. `packed` gives how many jobs of a kind share a task.
    `most` is the number of elements of the largest array.
    """
    pending = {*todo, *in_flight}
    waits = {ref: _direct(specs, ref, pending) for ref in todo}
    dependents = Counter(need for needs in waits.values() for need in needs)
    found: list[Array] = []
    where: dict[JobRef, Condition] = dict(in_flight)
    for kind, refs in _waves(todo, waits):
        tasks = _tasks(refs, waits, where, packed(kind))
        tasks.sort(key=lambda task: -sum(dependents[ref] for ref in task.jobs))
        for array in _arrays(kind, tasks, most):
            for element, jobs in enumerate(array.tasks):
                where.update(dict.fromkeys(jobs, (len(found), element)))
            found.append(array)
    return found


def _direct(specs: Mapping[JobRef, JobSpec], ref: JobRef, pending: set[JobRef]) -> frozenset[JobRef]:
    """The inputs that a job waits for, except those that another of its inputs waits for anyway."""
    needs = {need for need in specs[ref].inputs.values() if need in pending}
    implied = {further for need in needs for further in _ancestors(specs, need)}
    return frozenset(needs - implied)


def _ancestors(specs: Mapping[JobRef, JobSpec], ref: JobRef) -> set[JobRef]:
    direct = set(specs[ref].inputs.values()) if ref in specs else set()
    return direct | {further for need in direct for further in _ancestors(specs, need)}


def _waves(todo: Sequence[JobRef], waits: Mapping[JobRef, frozenset[JobRef]]) -> list[tuple[str, list[JobRef]]]:
    """The jobs grouped by kind and by the length of the chain of jobs before them, in dependency order."""
    depth: dict[JobRef, int] = {}

    def depth_of(ref: JobRef) -> int:
        if ref not in depth:
            depth[ref] = 1 + max((depth_of(need) for need in waits[ref] if need in waits), default=-1)
        return depth[ref]

    waves: dict[tuple[int, str], list[JobRef]] = defaultdict(list)
    for ref in todo:
        waves[depth_of(ref), ref.kind].append(ref)
    return [(kind, refs) for (_, kind), refs in sorted(waves.items(), key=lambda wave: wave[0][0])]


def _tasks(
    refs: Iterable[JobRef], waits: Mapping[JobRef, frozenset[JobRef]], where: Mapping[JobRef, Condition], packed: int
) -> list[_Task]:
    """Packs jobs that wait for the same tasks."""
    alike: dict[frozenset[Condition], list[JobRef]] = defaultdict(list)
    for ref in refs:
        alike[frozenset(where[need] for need in waits[ref])].append(ref)
    return [_Task(tuple(jobs[i : i + packed]), after) for after, jobs in alike.items() for i in range(0, len(jobs), packed)]


def _arrays(kind: str, tasks: Sequence[_Task], most: int) -> list[Array]:
    together: dict[frozenset[Condition], list[_Task]] = defaultdict(list)
    for task in tasks:
        together[task.after].append(task)
    one_way = [
        Array(kind, tuple(task.jobs for task in alike[first : first + most]), after=_sorted(after))
        for after, alike in together.items()
        for first in range(0, len(alike), most)
    ]
    other = _aligned(kind, tasks)
    return other if other is not None and len(other) < len(one_way) else one_way


def _aligned(kind: str, tasks: Sequence[_Task]) -> list[Array] | None:
    """The tasks in arrays whose elements match those of the arrays they wait for, or None if that is impossible."""
    ranks: dict[tuple[int, frozenset[Condition], int], dict[int, tuple[JobRef, ...]]] = defaultdict(dict)
    seen: Counter[tuple[frozenset[Condition], Element]] = Counter()
    for task in tasks:
        ours = [condition for condition in task.after if not isinstance(condition, str)]
        if not ours:
            return None
        main = max(ours)  # of the latest array, which has the most elements
        rest = task.after - {main}
        rank = seen[rest, main]
        seen[rest, main] += 1
        ranks[main[0], rest, rank][main[1]] = task.jobs
    found = []
    for (array, rest, _), elements in ranks.items():
        if sorted(elements) != list(range(len(elements))):
            return None
        jobs = tuple(elements[i] for i in range(len(elements)))
        if len(jobs) == 1:  # not an array, so alignment is impossible
            found.append(Array(kind, jobs, after=_sorted({(array, 0), *rest})))
        else:
            found.append(Array(kind, jobs, aligned=array, after=_sorted(rest)))
    return found


def _sorted(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    return tuple(sorted(conditions, key=str))
