"""What it brings to run several trainings on one device at once: `diamond-bench profile --packed N`, in runs a day of the device."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.profiling.lines import Line
from diamond_bench.profiling.packing_group import Group, threads_each
from diamond_bench.profiling.packing_member import UPDATES, Member, cycles_of, mixture
from diamond_bench.profiling.timing import spread
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.agent_cost import Updates, agent_work

PAIRS = 6
"""Even: each way is as often the first of a pair as the second."""
SLICE_SECONDS = 5.0
"""That a slice lasts, at least."""
_LEAST_CYCLES = 2
_DAY = 86400.0
_WARM_SLICES = 2
"""The first may compile and record; the second tells how long a cycle takes."""


@dataclass(frozen=True)
class Packing:
    """What is measured: a training alone on the device, and each of `packed` such trainings at once."""

    training: TrainAgent
    packed: tuple[int, ...]
    """Numbers of processes, 2 at least, one after the other."""
    device_name: str
    """Model of the device."""
    mps: bool = False
    """Whether CUDA's Multi-Process Service is on for the time of the run."""
    seconds: float = SLICE_SECONDS
    """Of a slice, at least."""


@dataclass(frozen=True)
class Measured:
    """Alone against some number of processes at once."""

    processes: int
    threads: tuple[int, int]
    """CPU threads of the one alone, and of each of those packed."""
    alone: tuple[float, ...]
    packed: tuple[float, ...]
    """Cycles a second, pair by pair; of all processes together."""
    cycles: tuple[int, int]
    """In a slice."""
    order: str
    bytes: int
    """Memory of all packed processes together."""


def run(config: Packing, context: JobContext) -> Result:
    """Measures and leaves no file: `lines` in the facts (see `Line`) and rows. Nothing of it outlives an interruption.

    Raises Interrupted; UserError where a process dies, the device is not the one the job is of, or the Multi-Process Service that the
    config asks for is not there.
    """
    service = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "")
    if config.mps and not service:
        raise UserError("this profile is of a device under CUDA's Multi-Process Service, and none is running: run the command anew")
    found = []
    for i, processes in enumerate(config.packed):
        step = _Progress(context, i, len(config.packed), processes)
        found.append(measure(config, processes, context.device, step))
    context.check_owner()
    lines = [line for measured in found for line in lines_of(config.training, measured)]
    info: dict[str, Any] = {
        "lines": [asdict(line) for line in lines],
        "game": config.training.game,
        "packed": [asdict(measured) for measured in found],
        "mps": "on for this run" if config.mps else f"found in the environment ({service})" if service else "none",
        "notes": list(notes(config, found, service)),
    }
    return Result([row for line in lines for row in _rows(line)], info)


def measure(
    config: Packing, processes: int, device: str, tick: Callable[[float, str], object] = lambda share, text: None, pairs: int = PAIRS
) -> Measured:
    """Slices of one process alone and of several at once, in turn and every other pair backwards.

    On the CPU, where threads would be divided, the one alone is a further process, with all threads of the config; else it is one of the
    packed. `tick` is told the share that is done and what is going on, several times a second, and may raise to end it.
    """
    all_threads = config.training.execution.num_threads
    each = threads_each(all_threads, processes) if device == "cpu" else all_threads
    members = [member(config.training, device, each, i, processes) for i in range(processes)]
    if each != all_threads:
        members.append(member(config.training, device, all_threads, 0, 1))
    packed, alone = range(processes), [0 if each == all_threads else processes]
    state = (0.0, "")

    def going_on(share: float, text: str) -> None:
        nonlocal state
        state = share, text

    with ExitStack() as stack:
        going_on(0.0, "random data and networks")
        group = stack.enter_context(Group(members, lambda: tick(*state)))
        names = set(group.ready())
        if device != "cpu" and names != {config.device_name}:
            raise UserError(f"this profile is of {config.device_name}, and {device} here is {', '.join(names)}; run the command anew")
        cycles, slowest = {}, {}
        for name, who in (("packed", packed), ("alone", alone)):
            for _ in range(_WARM_SLICES):
                going_on(0.0, f"warm-up, {name}")
                slowest[name] = min(group.work(1, who))
            cycles[name] = max(_LEAST_CYCLES, math.ceil(config.seconds * slowest[name]))
        slices = ", ".join(f"{name} {cycles[name] / rate:.0f} s" for name, rate in slowest.items())
        rates: dict[str, list[float]] = {"alone": [], "packed": []}
        order, most = "", 0
        for pair in range(pairs):
            for name in ("alone", "packed") if pair % 2 == 0 else ("packed", "alone"):
                going_on(len(order) / (2 * pairs), f"{name}, pair {pair + 1} of {pairs} (slices: {slices})")
                rates[name].append(sum(group.work(cycles[name], packed if name == "packed" else alone)))
                most = max(most, group.bytes) if name == "packed" else most
                order += name[0]
    return Measured(
        processes, (all_threads, each), tuple(rates["alone"]), tuple(rates["packed"]), (cycles["alone"], cycles["packed"]), order, most
    )


def member(training: TrainAgent, device: str, threads: int, number: int, processes: int) -> Member:
    """The process of this number: a seed of its own, and its own place in the cycle."""
    return Member(replace(training, seed=training.seed + number), device, threads, number / processes)


def epochs_of_a_run(config: TrainAgent) -> float:
    """How many epochs' arithmetic a run has: its first epoch has more updates than later ones, its last ones no real steps."""
    agent = config.agent
    epoch = Updates(agent.denoiser_updates, agent.reward_end_updates, agent.actor_critic_updates)
    return agent_work(config) / agent_work(config, epoch)


def lines_of(config: TrainAgent, measured: Measured) -> Sequence[Line]:
    """What a measurement comes to: runs a day of the device, updates and real steps a second, memory."""
    n, counts = measured.processes, mixture(config)
    epochs = 1 / cycles_of(counts)  # a cycle
    lines = [_line(measured, f"packed_{n}", f"{n} runs at once", 0, "runs/day", epochs * _DAY / epochs_of_a_run(config))]
    for name, count in counts.items():
        unit, words = ("updates/s", f"updates of the {_WORDS[name]}") if name in UPDATES else ("steps/s", "real steps")
        lines.append(_line(measured, f"packed_{n}_{name}", words, 1, unit, epochs * count))
    alone, each = measured.threads
    return [
        *lines,
        Line(f"packed_{n}_memory", "memory of all of them together, at most", 1, "bytes", float(measured.bytes)),
        Line(f"packed_{n}_threads", "CPU threads of each", 1, "threads", float(each), other=float(alone)),
    ]


_WORDS = {"denoiser": "denoiser", "reward_end": "reward/end model", "actor_critic": "actor-critic"}


def _line(measured: Measured, name: str, what: str, level: int, unit: str, factor: float) -> Line:
    """Of cycles a second times `factor`: all kinds of work are done in proportion."""
    packed = spread([rate * factor for rate in measured.packed])
    alone = spread([rate * factor for rate in measured.alone])
    ratio = spread([p / a for p, a in zip(measured.packed, measured.alone, strict=True)])
    return Line(
        name,
        what,
        level,
        unit,
        packed.median,
        packed.low,
        packed.high,
        packed.count,
        other=alone.median,
        other_low=alone.low,
        other_high=alone.high,
        ratio=ratio.median,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        order=measured.order,
    )


def notes(config: Packing, found: Sequence[Measured], service: str = "") -> Sequence[str]:
    """What a reader of the numbers must know."""
    counts = mixture(config.training)
    said = [
        "Random frames, actions and rewards, fresh networks; no imagined episode ends before its horizon.",
        "The work is an epoch's: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) + "; a run counts as "
        f"{epochs_of_a_run(config.training):.3g} of them, by its arithmetic. Test games, checkpoints and logs are left out.",
    ]
    pieces = f" of 1/{cycles_of(counts)} epoch" if cycles_of(counts) > 1 else ""
    for m in found:
        alone, each = m.threads
        said.append(
            f"{m.processes} at once: {_threads(each)} each, against {_threads(alone)} of the one alone; {len(m.packed)} pairs, "
            f"in a slice {m.cycles[0]} cycles{pieces} alone, and {m.cycles[1]} of each when packed."
        )
    if service:
        said.append("CUDA's Multi-Process Service was on, for the one alone too." if config.mps else f"A service of {service} was in use.")
    return said


def _threads(count: int) -> str:
    return f"{count} CPU thread{'s' * (count > 1)}"


def _rows(line: Line) -> list[Row]:
    units: Mapping[str, str] = {"runs/day": "runs_per_day", "updates/s": "updates_per_second", "steps/s": "steps_per_second"}
    assert line.median is not None
    found = [Row(f"{line.name}_{units[line.unit]}" if line.unit in units else line.name, line.median, measured=True)]
    return [*found, *([] if line.ratio is None else [Row(f"{line.name}_ratio", line.ratio, measured=True)])]


class _Progress:
    """Tells the job's progress, and stops it where it is asked to."""

    def __init__(self, context: JobContext, number: int, count: int, processes: int) -> None:
        self._context, self._number, self._count, self._processes = context, number, count, processes

    def __call__(self, share: float, text: str) -> None:
        done = int(1000 * (self._number + share))
        self._context.progress(done, 1000 * self._count, f"{self._processes} at once: {text}")
        if self._context.should_stop():
            raise Interrupted("a profile is measured in one go; the same command begins it anew")
