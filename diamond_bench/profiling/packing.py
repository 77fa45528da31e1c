"""Measures the gain from running several trainings on one device at once: `diamond-bench profile --packed N`, in runs per day of the
device."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from diamond_bench.costs.train_agent import Updates, agent_work
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.launch.events import Event
from diamond_bench.launch.interrupts import Interrupts
from diamond_bench.launch.local import run_local
from diamond_bench.profiling.lines import Line
from diamond_bench.profiling.packed_run import KINDS, UPDATES, PackedRun, RunFiles, cycles_of, mixture
from diamond_bench.profiling.timing import spread
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.store.profiled import PACKING_PAIRS

SLICE_SECONDS = 5.0
"""Minimum duration of a slice."""
_MIN_ENDS = 3
"""Minimum number of ends of cycles in a slice. The rate counts the time between the first and the last of them."""
_WARM_CYCLES = 2
"""the first cycles may compile and record"""
_DAY = 86400.0
_POLL_SECONDS = 0.05
_KINDS = "diamond_bench.profiling.packed_run:KINDS"
_LAST_LINES = 6
"""Lines from the end of a failed run's log that the message repeats."""


@dataclass(frozen=True)
class Packing:
    """The alternatives that are measured: a single training on the device, and each of `packed` such trainings at once."""

    training: TrainAgent
    packed: tuple[int, ...]
    """Numbers of processes, at least 2, measured one after the other."""
    mps: bool = False
    """Whether the runs share the device through CUDA's Multi-Process Service."""
    seconds: float = SLICE_SECONDS
    """The shortest slice."""
    pairs: int = PACKING_PAIRS
    """Pairs of slices: one run alone, and the packed runs. An even number."""


@dataclass(frozen=True)
class Measured:
    """One run alone compared with several runs at once."""

    processes: int
    threads: tuple[int, int]
    """CPU threads of the single run, and of each of the packed runs."""
    alone: tuple[float, ...]
    packed: tuple[float, ...]
    """Cycles per second in each pair, over all runs."""
    order: str
    """The slices in order: a for alone, p for packed."""
    bytes: int
    """Memory of all packed runs together."""


Tick = Callable[[float, str], object]


def run(config: Packing, context: JobContext) -> Result:
    """Measures the alternatives. The results are in the facts (`lines`, see `Line`) and rows; there are no files. Nothing is kept after an
    interruption.

    Raises Interrupted, and UserError if a run fails, or if the Multi-Process Service that the config asks for is not running.
    """
    service = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "")
    if config.mps and not service:
        raise UserError("this profile is of a device under CUDA's Multi-Process Service, and none is running: run the command again")

    def tick(share: float, text: str) -> None:
        processes = config.packed[len(found)]
        context.progress(int(1000 * (len(found) + share)), 1000 * len(config.packed), f"{processes} at once: {text}")
        if context.should_stop():
            raise Interrupted("a profile cannot be resumed; the same command starts it over")

    found: list[Measured] = []
    for processes in config.packed:
        found.append(measure(config, processes, context.device, tick, config.pairs))
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


def measure(config: Packing, processes: int, device: str, tick: Tick = lambda share, text: None, pairs: int = PACKING_PAIRS) -> Measured:
    """Slices of one run alone and of several at once, alternating, with every other pair in reverse order.

    On the CPU, where threads are divided, the single run is a further run with all threads of the config. Otherwise it is one of the packed
    runs. `tick` is called several times per second with the finished share and a description of the work, and may raise to end it. Raises
    UserError, with the end of its log, if a run fails.
    """
    specs = jobs(config.training, device, processes)
    packed, alone = range(processes), [processes if len(specs) > processes else 0]
    rates: dict[str, list[float]] = {"alone": [], "packed": []}
    order = ""
    with _Runs(specs, device, lambda: tick(len(order) / (2 * pairs), text)) as runs:
        text = "networks and warm-up"
        runs.warm_up()
        for pair in range(pairs):
            for name in ("alone", "packed") if pair % 2 == 0 else ("packed", "alone"):
                text = f"{name}, pair {pair + 1} of {pairs}"
                rates[name].append(sum(runs.rates(packed if name == "packed" else alone, config.seconds)))
                order += name[0]
        memory = sum(runs.bytes()[:processes])
    threads = (config.training.execution.num_threads, specs[0].config.execution.num_threads)
    return Measured(processes, threads, tuple(rates["alone"]), tuple(rates["packed"]), order, memory)


def jobs(training: TrainAgent, device: str, processes: int) -> Sequence[JobSpec]:
    """The packed runs, each with its own seed and position in the cycle. On the CPU they divide the config's threads. If that gives each of
    them fewer, the last job is the single run, with all threads."""
    threads = training.execution.num_threads
    each = max(1, threads // processes) if device == "cpu" else threads

    def job(number: int, threads: int, turn: float) -> JobSpec:
        execution = replace(training.execution, num_threads=threads)
        config = PackedRun(replace(training, seed=training.seed + number, execution=execution), turn)
        return JobSpec("packed_run", config, {}, revision=KINDS["packed_run"].revision)

    packed = [job(number, each, number / processes) for number in range(processes)]
    return packed if each == threads else [*packed, job(processes, threads, 0.0)]


class _Runs:
    """Runs that share a device: an ordinary sweep, in a store that is removed with it. `tick` is called during waits, and may raise to end
    the runs. A context: if an exception leaves it, the workers are killed."""

    def __init__(self, specs: Sequence[JobSpec], device: str, tick: Callable[[], object]) -> None:
        self._tick = tick
        self._folder = tempfile.TemporaryDirectory(prefix="packed-")
        self._store = Store(Path(self._folder.name) / "runs", kinds=KINDS, say=print)
        self._refs = [spec.ref for spec in specs]
        self._files = [RunFiles(self._store.folder(ref)) for ref in self._refs]
        self._failed: dict[JobRef, str] = {}
        self._stop = Interrupts()
        self._sweeper = ThreadPoolExecutor(1)
        self._sweep = self._sweeper.submit(
            run_local,
            self._store,
            specs,
            num_workers=len(specs),
            device="cuda:0" if device == "cuda" else device,
            on_event=self._handle,
            worker_arguments=("--kinds", _KINDS, "--grace", "15"),
            interrupts=self._stop,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.count = max(self._stop.count, 2 if error else 1)
        self._sweeper.shutdown()
        self._folder.cleanup()

    def warm_up(self) -> None:
        """Lets all runs work until they neither compile nor record."""
        self._until(lambda: all(len(files.read_ends()) >= _WARM_CYCLES for files in self._files))

    def rates(self, who: Sequence[int], seconds: float) -> Sequence[float]:
        """Cycles per second of each of `who` while only these work, for at least `seconds`: from the first end of a cycle to the last."""
        waiting = [files for number, files in enumerate(self._files) if number not in who]
        for number in who:
            self._files[number].pause.unlink(missing_ok=True)
        for files in waiting:
            files.pause.touch()
        self._until(lambda: all(files.paused.exists() for files in waiting))
        start = time.monotonic()

        def ends() -> list[list[float]]:
            return [[end for end in self._files[number].read_ends() if end >= start] for number in who]

        self._until(lambda: time.monotonic() >= start + seconds and min(map(len, ends())) >= _MIN_ENDS)
        return [(len(found) - 1) / (found[-1] - found[0]) for found in ends()]

    def bytes(self) -> Sequence[int]:
        """Ends the runs. Returns the peak memory of each."""
        self._stop.count = 1
        while not self._sweep.done():
            self._tick()
            time.sleep(_POLL_SECONDS)
        if len(self._sweep.result().done) < len(self._refs):
            raise UserError(self._failure())
        return [int(self._store.result(ref).info["bytes"]) for ref in self._refs]

    def _handle(self, event: Event) -> None:
        if event.name == "failed" and event.ref is not None:
            self._failed[event.ref] = event.text

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._tick()
            if self._failed or self._sweep.done():
                raise UserError(self._failure())
            time.sleep(_POLL_SECONDS)

    def _failure(self) -> str:
        """The problem of the first run that failed. Prints its log. Raises the sweep's exception."""
        if not self._failed:
            return f"the runs that share the device ended early: {self._sweep.result()}"
        ref, error = next(iter(self._failed.items()))
        name, log = f"run {self._refs.index(ref) + 1} of {len(self._refs)}", self._store.folder(ref) / "log.txt"
        text = log.read_text(errors="replace").strip() if log.exists() else ""
        print(f"--- {name}: {error}; its log:\n{text}", flush=True)
        last = " | ".join(line.strip() for line in text.splitlines()[-_LAST_LINES:])
        return f"{name} that share the device failed: {error}; its log ends: {last or 'empty'}"


def epochs_per_run(config: TrainAgent) -> float:
    """The arithmetic of a run as a number of epochs: its first epoch has more updates than later ones, and its last ones have no real
    steps."""
    agent = config.agent
    epoch = Updates(agent.denoiser_updates, agent.reward_end_updates, agent.actor_critic_updates)
    return agent_work(config) / agent_work(config, epoch)


def lines_of(config: TrainAgent, measured: Measured) -> Sequence[Line]:
    """The results of a measurement: runs per day of the device, updates and real steps per second, memory."""
    n, counts = measured.processes, mixture(config)
    epochs = 1 / cycles_of(counts)  # of a cycle
    lines = [_line(measured, f"packed_{n}", f"{n} runs at once", 0, "runs/day", epochs * _DAY / epochs_per_run(config))]
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
    """A line of cycles per second times `factor`: all kinds of work occur in proportion."""
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
    """Notes that a reader of the numbers needs."""
    counts = mixture(config.training)
    lines = [
        "Random frames, actions and rewards, fresh networks; no imagined episode ends before its horizon.",
        "The work is an epoch's: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) + "; a run counts as "
        f"{epochs_per_run(config.training):.3g} of them, by its arithmetic. Test games, checkpoints and logs are left out.",
    ]
    for m in found:
        alone, each = m.threads
        lines.append(f"{m.processes} at once: {_threads(each)} each, against {_threads(alone)} of the one alone; {len(m.packed)} pairs.")
    if service:
        lines.append("CUDA's Multi-Process Service was on, for the one alone too." if config.mps else f"A service of {service} was in use.")
    return lines


def _threads(count: int) -> str:
    return f"{count} CPU thread{'s' * (count > 1)}"


def _rows(line: Line) -> list[Row]:
    units: Mapping[str, str] = {"runs/day": "runs_per_day", "updates/s": "updates_per_second", "steps/s": "steps_per_second"}
    assert line.median is not None
    found = [Row(f"{line.name}_{units[line.unit]}" if line.unit in units else line.name, line.median, measured=True)]
    return [*found, *([] if line.ratio is None else [Row(f"{line.name}_ratio", line.ratio, measured=True)])]
