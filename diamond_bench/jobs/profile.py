"""The job `profile`: how long the parts of a training take on this device, as the paper's Table 5 tells it for its authors'."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diamond_bench.diffusion.schedules import nfe
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.jobs.execution import PLAIN, Execution
from diamond_bench.jobs.profile_parts import Parts, flop_of, host_synchronisations, product_peak, random_replay
from diamond_bench.jobs.timing import Spread, Timings, alternate, ratios, scaled, spread
from diamond_bench.models.precision import Precision
from diamond_bench.studies.agent_cost import num_epochs, updates
from diamond_bench.studies.kinds import Profile, TrainAgent

_UPDATES = ("denoiser_update", "reward_end_update", "actor_critic_update")
_LABELS = {
    "denoiser_update": (0, "one update of the denoiser"),
    "reward_end_update": (0, "one update of the reward/end model"),
    "actor_critic_update": (0, "one update of the actor-critic"),
    "imagination_step": (1, "of which {steps} imagination steps, each"),
    "next_frame": (2, "next frame"),
    "denoiser_call": (3, "of which {calls} denoiser calls, each"),
    "reward_and_end": (2, "reward and end"),
    "action": (2, "action"),
    "loss_and_backward": (1, "of which loss, backward pass and optimiser"),
    "start_segments": (0, "start segments that an update of the actor-critic uses up"),
    "real_step": (0, "one real step, with the policy"),
    "epoch": (0, "one epoch, projected"),
    "run": (0, "one run, projected"),
}
"""Level and words of each part, in the order in which they are told."""
_NUM_PARTS = sum(name not in ("epoch", "run") for name in _LABELS)
_TICKS = 1000
"""Progress of one part."""


@dataclass(frozen=True)
class Line:
    """One thing that was measured; what does not apply to it, or was not measured, is none."""

    name: str
    what: str
    level: int
    """How far below an update it is."""
    unit: str
    """s, frames/s, calls/s, FLOP/s, bytes, or a step's count."""
    median: float | None
    low: float | None = None
    high: float | None = None
    """Quartiles; none where it was not repeated."""
    timings: int | None = None
    flop: float | None = None
    """Of one such part."""
    flop_per_second: float | None = None
    share_of_peak: float | None = None
    """Of the fastest matrix product in the same precision on the same device."""
    plain: float | None = None
    """The median of plain, where it was compared."""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    """How many times as fast as plain: median and quartiles of the pairs' ratios."""
    order: str = ""
    """Whose timings followed each other: c for configured, p for plain."""


COMPARISONS: Mapping[str, tuple[Precision, Execution, bool]] = {
    "plain": ("fp32", PLAIN, True),
    "authors": ("tf32", Execution(compile="imagination"), True),
}
"""What a profile is timed against: precision, execution, and whether weights keep PyTorch's own layout. Device and threads are always
those of the profile: they are what it runs on, not how."""


def run(config: Profile, context: JobContext) -> Result:
    """Measures and leaves no file: everything is in the result's facts (`lines`, see `Line`) and its rows, in seconds and bytes.

    Nothing of a profile outlives an interruption. Raises Interrupted; UserError where the device is not the one the job is of.
    """
    return _Profiling(config, context).run()


class _Profiling:
    def __init__(self, config: Profile, context: JobContext) -> None:
        self.config, self.context, self.training = config, context, config.training
        self.device = torch.device(context.device)
        if self.device.type == "cuda" and (found := torch.cuda.get_device_name(self.device)) != config.device_name:
            raise UserError(f"this profile is of {config.device_name}, and {context.device} here is {found}; run the command anew")
        self.compares = bool(config.compare)
        self.flop = flop_of(config.training)
        self.seconds: dict[str, list[Spread]] = {}
        """Of each part: configured, and plain."""
        self.ratios: dict[str, Spread] = {}
        self.orders: dict[str, str] = {}
        self.peak = (0.0, 0)

    def run(self) -> Result:
        self._tick(0, 0.0, "random data and networks")
        replay = random_replay(self.training, self.device)
        ways = [Parts(self.training, self.device, replay)]
        memory = self._peak_memory(ways[0])
        if self.compares:
            precision, execution, contiguous = COMPARISONS[self.config.compare]
            other = replace(self.training, execution=replace(self.training.execution, precision=precision))
            ways.append(Parts(other, self.device, replay, execution, contiguous))
        names = list(ways[0].works)
        self._measure_peak()
        for number, name in enumerate(names):
            timings = alternate([way.works[name] for way in ways], self._wait, partial(self._part_done, number, name))
            self._keep(name, timings, ways[0].each.get(name, 1.0))
        self._measure_peak()
        steps = self.training.actor_critic.horizon
        ways[0].prepare(steps)
        waits = host_synchronisations(ways[0].imagine, steps, self.device)
        return self._result(memory, waits)

    def _peak_memory(self, parts: Parts) -> int:
        """Bytes at most while each network is updated once, before anything of plain is there."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for name in _UPDATES:
            self._tick(0, 0.0, f"memory, {name}")
            parts.works[name].call()
        self._wait()
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024  # getrusage's would hold that of the process which started this one

    def _measure_peak(self) -> None:
        """The better of several times: other work on the machine can only take from it."""
        self.peak = max(self.peak, product_peak(self.device, self.training.execution.precision, self._wait))

    def _keep(self, name: str, timings: Timings, factor: float) -> None:
        self.seconds[name] = [scaled(spread(seconds), factor) for seconds in timings.seconds]
        self.orders[name] = "".join("cp"[way] for way in timings.order)
        if self.compares:
            self.ratios[name] = ratios(timings)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _part_done(self, part: int, name: str, share: float) -> None:
        self._tick(part, share, name)

    def _tick(self, part: int, share: float, text: str) -> None:
        self.context.progress(int(_TICKS * (part + share)), _TICKS * _NUM_PARTS, text.replace("_", " "))
        if self.context.should_stop():
            raise Interrupted("a profile is measured in one go; the same command begins it anew")

    # What it comes to

    def _result(self, memory: int, waits: float | None) -> Result:
        lines = [self._part(name) for name in _LABELS if name in self.seconds] + self._projected() + self._rates()
        rate, side = self.peak
        lines += [
            Line("product_peak", f"matrix product of {side} x {side}, {self.training.execution.precision}", 0, "FLOP/s", rate),
            Line("peak_memory", "memory at most, with the replay" + ("" if self._cuda else " and the process"), 0, "bytes", float(memory)),
            Line("host_synchronisations", "times an imagined step waits for the device", 0, "1", waits),
        ]
        self.context.check_owner()
        info: dict[str, Any] = {
            "lines": [asdict(line) for line in lines],
            "game": self.training.game,
            "epochs": num_epochs(self.training),
            "updates": asdict(updates(self.training)),
            "notes": list(notes(self.training, self.compares)),
        }
        return Result([row for line in lines for row in _rows(line)], info)

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"

    def _label(self, name: str) -> tuple[str, int]:
        level, words = _LABELS[name]
        settings = self.training.actor_critic
        return words.format(steps=settings.steps_per_update, calls=nfe(self.training.sampler)), level

    def _part(self, name: str) -> Line:
        found, (what, level), flop = self.seconds[name][0], self._label(name), self.flop.get(name)
        rate = None if flop is None else flop / found.median
        line = Line(name, what, level, "s", found.median, found.low, found.high, found.count, flop, rate)
        line = replace(line, share_of_peak=None if rate is None else rate / self.peak[0], order=self.orders[name])
        if not self.compares:
            return line
        ratio = self.ratios[name]
        return replace(line, plain=self.seconds[name][1].median, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high)

    def _projected(self) -> list[Line]:
        """An epoch after the first, and a whole run, from the medians."""
        lines = []
        for name, count in (("epoch", of_an_epoch(self.training)), ("run", of_a_run(self.training))):
            totals = [
                sum(times * self.seconds[part][way].median for part, times in count.items()) for way in range(2 if self.compares else 1)
            ]
            flop = sum(times * self.flop.get(part, 0.0) for part, times in count.items())
            (what, level), rate = self._label(name), flop / totals[0]
            line = Line(name, what, level, "s", totals[0], flop=flop, flop_per_second=rate, share_of_peak=rate / self.peak[0])
            lines.append(replace(line, plain=totals[1], ratio=totals[1] / totals[0]) if self.compares else line)
        return lines

    def _rates(self) -> list[Line]:
        b = self.training.actor_critic.batch_size
        calls = b * nfe(self.training.sampler)
        return [
            self._rate("frames_per_second", "imagined frames a second", "frames/s", b, "imagination_step"),
            self._rate("nfe_per_second", "denoiser calls a second, of all imagined games together", "calls/s", calls, "next_frame"),
        ]

    def _rate(self, name: str, what: str, unit: str, amount: float, part: str) -> Line:
        """`amount` an occurrence of a part, as so much a second; what is fast there is high here."""
        of = self._part(part)
        assert of.median is not None
        assert of.low is not None
        assert of.high is not None
        line = Line(name, what, 0, unit, amount / of.median, amount / of.high, amount / of.low, of.timings)
        rate_plain = None if of.plain is None else amount / of.plain
        return replace(line, plain=rate_plain, ratio=of.ratio, ratio_low=of.ratio_low, ratio_high=of.ratio_high)


def of_an_epoch(config: TrainAgent) -> Mapping[str, float]:
    """How often each part is done in an epoch after the first that collects."""
    agent = config.agent
    return _occurrences(agent.denoiser_updates, agent.reward_end_updates, agent.actor_critic_updates, agent.steps_per_epoch)


def of_a_run(config: TrainAgent) -> Mapping[str, float]:
    """How often each part is done in a whole run, the initial collection taking no more than agent.initial_steps."""
    made = updates(config)
    return _occurrences(made.denoiser, made.reward_end, made.actor_critic, config.agent.budget)


def _occurrences(denoiser: int, reward_end: int, actor_critic: int, real_steps: int) -> Mapping[str, float]:
    counts = (denoiser, reward_end, actor_critic, actor_critic, real_steps)
    return dict(zip((*_UPDATES, "start_segments", "real_step"), map(float, counts), strict=True))


def notes(config: TrainAgent, compares: bool) -> Sequence[str]:
    """What a reader of the numbers must know."""
    found = [
        "Random frames, actions and rewards, fresh networks; no imagined episode ends before its horizon.",
        "Epoch and run: medians times the updates and real steps that the config asks for; test games, checkpoints and logs are left out.",
        f"Batches: denoiser {config.training.batch_size} x {config.training.num_autoregressive_steps + 1} frames, reward/end model "
        f"{config.reward_end.batch_size} x {config.reward_end.segment_length - 1}, imagined games {config.actor_critic.batch_size}; "
        f"frames of {config.env.frame_size} x {config.env.frame_size}.",
    ]
    said = "Plain: the same networks eager, in fp32, weights in PyTorch's own layout, no option of execution; timed in turn with it."
    return [*found, said] if compares else found


_PER = {"s": "seconds", "bytes": "bytes", "1": "per_step", "FLOP/s": "flop_per_second"}


def _rows(line: Line) -> list[Row]:
    """A line's numbers for the results table; a rate's name says its unit already."""
    name = f"{line.name}_{_PER[line.unit]}" if line.unit in _PER else line.name
    found = [] if line.median is None else [Row(name, line.median, measured=True)]
    return [*found, *([] if line.ratio is None else [Row(f"{line.name}_ratio", line.ratio, measured=True)])]
