"""The job `profile`: measures how long the parts of a training take on this device, as Table 5 of the paper reports for the authors'."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from diamond_bench.costs.train_agent import num_epochs, updates
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.jobs.execution import Execution, facts_of
from diamond_bench.jobs.memory import peak_bytes, reserved_bytes, reset_peak
from diamond_bench.jobs.precision import resolved_precision
from diamond_bench.models.precision import Precision
from diamond_bench.profiling import packing
from diamond_bench.profiling.lines import LABELS, Line, ProfileReport, each, notes, rows_of
from diamond_bench.profiling.machine import Product, host_synchronisations, product_peak
from diamond_bench.profiling.parts import GRAPH_CALLS, Parts, flop_of, random_replay
from diamond_bench.profiling.timing import ENOUGH_SECONDS, MAX_CALLS, MIN_ROUNDS, MIN_WARM_CALLS, Timings, alternate, warm_up
from diamond_bench.store.kinds import Profile
from diamond_bench.store.profiled import COMPARED, PROFILED, PROFILED_UPDATES

_TICKS = 10_000
"""Units of progress of a whole profile, in shares of the expected seconds."""
_REACHED = 0.5
"""Assumed share of the matrix product's rate, for a rough estimate of seconds."""
_PEAK_SECONDS = 3.0
"""Expected seconds for measuring the matrix product, and for creating random data."""
_HEAVY_SECONDS = 20.0
"""An update of the policy that takes longer on a CPU is warmed up only once: it repeats everything but its loss many times."""


def run(config: Profile, context: JobContext) -> Result:
    """Measures and leaves no file: everything is in the result's facts (`lines`, see `Line`) and its rows, in seconds and bytes.

    A profile that is interrupted starts over. Raises Interrupted, and UserError if the device is not the one that the job is for.
    """
    if context.device.startswith("cuda") and (found := torch.cuda.get_device_name(context.device)) != config.device_name:
        raise UserError(f"this profile is of {config.device_name}, and {context.device} here is {found}; run the command again")
    if config.packed:
        return packing.run(packing.Packing(config.training, config.packed, config.mps, pairs=config.pairs), context)
    return _Profiling(config, context).run()


class _Profiling:
    def __init__(self, config: Profile, context: JobContext) -> None:
        self.config, self.context, self.device = config, context, torch.device(context.device)
        self.precision = resolved_precision(config.training.execution.precision, self.device)
        self.training = replace(config.training, execution=replace(config.training.execution, precision=self.precision))
        self.flop = flop_of(config.training, self.device.type)
        self.timed = [name for name in PROFILED if name in config.measures and name in LABELS]
        self.ways: list[Parts] = []
        self.warm: dict[str, list[float]] = {}
        """For each update, the seconds of a call after warm-up, one value per way."""
        self.timings: dict[str, Timings] = {}
        self.lines: list[Line] = []
        self.peak = Product(0.0, 0, "fp32")
        self.expected: dict[str, float] = {}
        """Expected seconds of each phase, in order."""
        self.done = 0.0

    def run(self) -> Result:
        load = os.getloadavg()[0]
        self._tick("", 0.0, "random data")
        replay = random_replay(self.training, self.device)
        self._measure_peak("")
        self._build(replay, self.precision)
        self._expect()
        memory = self._memory() if "peak_memory" in self.config.measures else []
        if not memory:
            self._warm_up("warm-up")
        if self.config.compare:
            way = COMPARED[self.config.compare]
            execution = Execution(compile=way.compile, precision=way.precision, fused=way.fused)
            self._build(replay, way.precision, execution, contiguous=True)
            self._warm_up("warm-up")
        for name in self.timed:
            self.timings[name] = self._timed(name)
        self._measure_peak("peak")
        waits = self._synchronisations() if "host_synchronisations" in self.config.measures else []
        return self._result(memory, waits, (load, os.getloadavg()[0]))

    def _build(self, replay: Any, precision: Precision, execution: Execution | None = None, contiguous: bool = False) -> None:
        self._tick("warm", 0.0, "networks")
        training = replace(self.training, execution=replace(self.training.execution, precision=precision))
        self.ways.append(Parts(training, self.device, replay, execution, contiguous))

    # Before anything is timed

    def _expect(self) -> None:
        """Estimates the duration of each phase from its arithmetic."""
        rate, num_ways, way = _REACHED * self.peak.flop_per_second, 2 if self.config.compare else 1, self.ways[0]
        warm = sum(self._least(name) * self.flop[name] for name in self._warmed())
        self.expected = {"": _PEAK_SECONDS, "warm": num_ways * warm / rate}
        for name in self.timed:
            calls = num_ways * (MIN_ROUNDS + (0 if name in PROFILED_UPDATES else MIN_WARM_CALLS))
            self.expected[name] = max(ENOUGH_SECONDS, calls * self.flop.get(name, 0.0) / way.each.get(name, 1.0) / rate)
        self.expected["peak"] = _PEAK_SECONDS
        minutes = max(1.0, sum(self.expected.values()) / 60)
        self.context.say(
            f"about {minutes:.0f} minute{'s' if minutes >= 1.5 else ''}, compilation apart: arithmetic at half the "
            f"{self.peak.flop_per_second / 1e9:.3g} GFLOP/s of a matrix product, which networks may reach or not"
        )

    def _warmed(self) -> list[str]:
        """The updates that are warmed up before anything is timed."""
        return [name for name in PROFILED_UPDATES if name in self.timed or "peak_memory" in self.config.measures]

    def _heavy(self) -> bool:
        seconds = self.flop["actor_critic_update"] / (_REACHED * self.peak.flop_per_second)
        return self.device.type == "cpu" and seconds > _HEAVY_SECONDS

    def _least(self, name: str) -> int:
        """Number of calls after which an update or part compiles and records no more."""
        if any(way.learners.execution.cuda_graphs != "none" for way in self.ways):
            return GRAPH_CALLS
        return 1 if name == "actor_critic_update" and self._heavy() else MIN_WARM_CALLS

    def _memory(self) -> list[Line]:
        """The peak memory of updating all networks with all gradients and Adam's moments allocated, before a comparison is built. These
        updates are also the warm-up."""
        way = self.ways[0]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        reset_peak(self.device)
        ring = way.rest_of_the_ring()
        way.first_descent()
        self._warm_up("memory")
        self._wait()
        del ring
        what = "memory at most, with the replay" + ("" if self._cuda else " and the process")
        found = [Line("peak_memory", what, 0, "bytes", float(peak_bytes(self.device)))]
        if self._cuda:
            reserved = float(reserved_bytes(self.device))
            found.append(Line("peak_memory_reserved", "the same, as torch reserved it, its context apart", 0, "bytes", reserved))
        return found

    def _warm_up(self, what: str) -> None:
        """Calls the updates of the newest way until they neither compile nor record, and before them the work that they rarely do."""
        number, num_ways, way = len(self.ways) - 1, 2 if self.config.compare else 1, self.ways[-1]
        way.works["renewal"].call()
        if way.learners.execution.records_updates:
            way.learners.prepare(MAX_CALLS)  # otherwise the first timing would enlarge the ring of start segments and record again
        done, all_of_it = 0.0, sum(self._least(name) * self.flop[name] for name in self._warmed())
        for name in self._warmed():
            tick = self._ticker("warm", (number + done / all_of_it) / num_ways, f"{what}, {name}")
            took = warm_up(way.works[name], self._wait, tick, least=self._least(name))
            self.warm.setdefault(name, []).append(took)
            done += self._least(name) * self.flop[name]

    def _measure_peak(self, phase: str) -> None:
        """Keeps the best of several measurements: other work on the machine can only slow them down."""
        tick = self._ticker(phase, 0.0, "matrix product")
        self.peak = max(self.peak, product_peak(self.device, self.precision, self._wait, tick))

    # Timings

    def _timed(self, name: str) -> Timings:
        works = [way.works[name] for way in self.ways]
        warmed = self.warm.get(name)
        begun = 0.0
        if warmed is None:
            begun = MIN_WARM_CALLS / (MIN_WARM_CALLS + MIN_ROUNDS)
            tick = self._ticker(name, 0.0, f"warm-up, {name}")
            warmed = [warm_up(work, self._wait, tick, least=self._least(name)) for work in works]
        before = [way.compiled() for way in self.ways]
        timings = alternate(works, warmed, self._wait, lambda share: self._tick(name, begun + (1 - begun) * share, name))
        after = [way.compiled() for way in self.ways]
        assert after == before, f"{name}: a network was compiled within a timing ({before} first calls before, {after} after)"
        return each(timings, self.ways[0].each.get(name, 1.0))

    def _synchronisations(self) -> list[Line]:
        """How often the configured way waits for the device, in an imagined step and in a whole update of each network."""
        way, steps = self.ways[0], self.training.actor_critic.horizon
        way.prepare(steps)
        count = host_synchronisations(way.imagine, steps, self.device)
        found = [Line("host_synchronisations", "times an imagined step waits for the device", 0, "syncs/step", count)]
        for name in self._warmed():
            work = way.works[name]
            work.before(1)
            count = host_synchronisations(work.call, 1, self.device)
            what = f"times {LABELS[name][1]} waits for the device"
            found.append(Line(f"host_synchronisations_{name}", what, 0, "syncs/update", count))
        return found

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _ticker(self, phase: str, share: float, text: str) -> Callable[[object], None]:
        """A function that reports this progress, whatever share of work it is called with. Steps of a warm-up are not distinguished."""
        return lambda _: self._tick(phase, share, text)

    def _tick(self, phase: str, share: float, text: str) -> None:
        """Reports progress: the expected seconds of earlier phases and of the share of this one. It never decreases."""
        if phase in self.expected:
            phases = list(self.expected)
            before = sum(self.expected[name] for name in phases[: phases.index(phase)])
            self.done = max(self.done, (before + share * self.expected[phase]) / sum(self.expected.values()))
        self.context.progress(int(_TICKS * self.done), _TICKS, text.replace("_", " "))
        if self.context.should_stop():
            raise Interrupted("a profile cannot be resumed; the same command starts it over")

    # Results

    def _result(self, memory: Sequence[Line], waits: Sequence[Line], load: tuple[float, float]) -> Result:
        rate, side, precision = self.peak
        lines = ProfileReport(self.config, self.timings, self.flop, rate).lines()
        lines.append(Line("product_peak", f"matrix product of {side} x {side}, {precision}", 0, "FLOP/s", rate))
        lines += [*self._compile_seconds(), *memory, *waits]
        ways = [facts_of(way.learners.execution) for way in self.ways]
        self.context.check_owner()
        info: dict[str, Any] = {
            "lines": [asdict(line) for line in lines],
            "game": self.training.game,
            "epochs": num_epochs(self.training),
            "updates": asdict(updates(self.training)),
            "measured": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "load_before": load[0],
            "load_after": load[1],
            "product": {"side": side, "precision": precision},
            "ways": ways,
            "notes": notes(self.config, ways, load),
        }
        return Result([row for line in lines for row in rows_of(line)], info)

    def _compile_seconds(self) -> list[Line]:
        """Seconds of compilation, if anything was compiled. A way that compiled nothing took 0 s."""
        seconds = [way.compile_seconds() for way in self.ways]
        if all(value is None for value in seconds):
            return []
        own, *other = (value or 0.0 for value in seconds)
        what = "first calls of compiled networks, in no timing"
        return [Line("compile_seconds", what, 0, "s", own, other=other[0] if other else None)]

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"
