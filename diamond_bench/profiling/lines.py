"""The content of a profile: its lines, the values derived from timings, and notes for the reader. Without torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from diamond_bench.costs.train_agent import updates
from diamond_bench.diffusion.schedules import nfe
from diamond_bench.jobs.context import Row
from diamond_bench.profiling.timing import Spread, Timings, ratios, spread
from diamond_bench.store.kinds import Profile, TrainAgent
from diamond_bench.store.profiled import PROFILED_UPDATES

LABELS = {
    "denoiser_update": (0, "one update of the denoiser"),
    "reward_end_update": (0, "one update of the reward/end model"),
    "actor_critic_update": (0, "one update of the actor-critic"),
    "imagination_step": (1, "of which {steps} imagination steps, each"),
    "next_frame": (2, "next frame"),
    "denoiser_call": (3, "of which {calls} denoiser calls, each"),
    "reward_and_end": (2, "reward and end"),
    "action": (2, "action"),
    "renewal": (1, "of which {steps} renewals of the policy's memory, each"),
    "loss_and_backward": (1, "of which loss, backward pass and optimiser"),
    "remainder": (1, "what is left of it"),
    "start_segments": (0, "start segments that an update of the actor-critic uses up"),
    "real_step": (0, "one real step, with the policy"),
    "epoch": (0, "one later epoch, projected"),
    "run": (0, "one run at most, projected"),
}
"""Level and label of each time, in the order of the table."""


@dataclass(frozen=True)
class Line:
    """One measured quantity. Fields that do not apply, or were not measured, are None."""

    name: str
    what: str
    level: int
    """Depth below an update."""
    unit: str
    """s, frames/s, FLOP/s, bytes, syncs/step or syncs/update."""
    median: float | None
    low: float | None = None
    high: float | None = None
    """Quartiles; None if the measurement was not repeated."""
    timings: int | None = None
    flop: float | None = None
    """FLOP of one occurrence of the part."""
    flop_per_second: float | None = None
    share_of_peak: float | None = None
    """Share of the rate of the fastest matrix product on the same device."""
    other: float | None = None
    """Median of the comparison: plain, or authors."""
    other_low: float | None = None
    other_high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    """Speed relative to the comparison: median and quartiles of the ratios of pairs."""
    order: str = ""
    """Order of the timings: c for configured, o for the comparison."""
    seconds: tuple[tuple[float, ...], ...] = ()
    """Every timing of one occurrence, in order: those of the configured execution, and those of the comparison."""


@dataclass(frozen=True)
class ProfileReport:
    """Timings of a profile, and the amounts that rates are computed from."""

    config: Profile
    timings: Mapping[str, Timings]
    """Seconds of one occurrence of each part."""
    flop: Mapping[str, float]
    peak: float
    """FLOP/s of the fastest matrix product."""

    @property
    def training(self) -> TrainAgent:
        """The training that is profiled."""
        return self.config.training

    def lines(self) -> list[Line]:
        """The lines of all timed parts, then projections from them, then rates."""
        found = {name: self._part(name) for name in LABELS if name in self.timings}
        found |= {line.name: line for line in (*self._remainder(), *self._projected())}
        return [found[name] for name in LABELS if name in found] + list(self._rates())

    def median(self, name: str, way: int = 0) -> float:
        """Seconds."""
        return self._spread(name, way).median

    def _spread(self, name: str, way: int) -> Spread:
        return spread(self.timings[name].seconds[way])

    def _ways(self) -> range:
        return range(2 if self.config.compare else 1)

    def _label(self, name: str) -> tuple[str, int]:
        level, words = LABELS[name]
        return words.format(steps=self.training.actor_critic.steps_per_update, calls=nfe(self.training.sampler)), level

    def _part(self, name: str) -> Line:
        timings, found, (what, level), flop = self.timings[name], self._spread(name, 0), self._label(name), self.flop.get(name)
        rate = None if flop is None else flop / found.median
        line = Line(name, what, level, "s", found.median, found.low, found.high, found.count, flop, rate)
        order = "".join("co"[way] for way in timings.order)
        line = replace(line, share_of_peak=None if rate is None else rate / self.peak, order=order, seconds=timings.seconds)
        if not self.config.compare:
            return line
        ratio, other = ratios(timings), self._spread(name, 1)
        line = replace(line, other=other.median, other_low=other.low, other_high=other.high)
        return replace(line, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high)

    def _remainder(self) -> Iterator[Line]:
        """The part of an actor-critic update that no measured part accounts for: a difference of medians, which noise can make negative.
        Omitted if an update is one CUDA graph, whose parts take other times when run alone."""
        if not {"actor_critic_update", "imagination_step", "renewal", "loss_and_backward"} <= set(self.timings):
            return
        if self.training.execution.cuda_graphs == "all":
            return
        steps, (what, level) = self.training.actor_critic.steps_per_update, self._label("remainder")
        left = [
            self.median("actor_critic_update", way)
            - steps * (self.median("imagination_step", way) + self.median("renewal", way))
            - self.median("loss_and_backward", way)
            for way in self._ways()
        ]
        yield Line("remainder", what, level, "s", left[0], other=left[1] if len(left) > 1 else None)

    def _projected(self) -> Iterator[Line]:
        """Projections of a later epoch and of a whole run from the medians, if all their parts were timed."""
        for name, count in (("epoch", per_epoch(self.training)), ("run", per_run(self.training))):
            if not set(count) <= set(self.timings):
                continue
            totals = [sum(times * self.median(part, way) for part, times in count.items()) for way in self._ways()]
            flop = sum(times * self.flop.get(part, 0.0) for part, times in count.items())
            (what, level), rate = self._label(name), flop / totals[0]
            line = Line(name, what, level, "s", totals[0], flop=flop, flop_per_second=rate, share_of_peak=rate / self.peak)
            yield replace(line, other=totals[1], ratio=totals[1] / totals[0]) if self.config.compare else line

    def _rates(self) -> Iterator[Line]:
        games = self.training.actor_critic.batch_size
        calls = games * nfe(self.training.sampler)
        if "imagination_step" in self.timings:
            yield self._rate("frames_per_second", "imagined frames a second", games, "imagination_step")
        if "next_frame" in self.timings:
            yield self._rate("nfe_per_second", "frames denoised a second (games x calls)", calls, "next_frame")

    def _rate(self, name: str, what: str, amount: float, part: str) -> Line:
        """A rate: `amount` per occurrence of a part, per second. Its high quartile is that of the fast timings."""
        own = self._spread(part, 0)
        line = Line(name, what, 0, "frames/s", amount / own.median, amount / own.high, amount / own.low, own.count)
        if not self.config.compare:
            return line
        other, ratio = self._spread(part, 1), ratios(self.timings[part])
        line = replace(line, other=amount / other.median, other_low=amount / other.high, other_high=amount / other.low)
        return replace(line, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high)


def each(timings: Timings, factor: float) -> Timings:
    """Timings of calls converted to timings of one part, if a call makes 1 / `factor` parts."""
    return replace(timings, seconds=tuple(tuple(value * factor for value in way) for way in timings.seconds))


def per_epoch(config: TrainAgent) -> Mapping[str, float]:
    """Occurrences of each part in a later epoch that collects."""
    agent = config.agent
    return _occurrences(agent.denoiser_updates, agent.reward_end_updates, agent.actor_critic_updates, agent.steps_per_epoch)


def per_run(config: TrainAgent) -> Mapping[str, float]:
    """Maximum number of occurrences of each part in a whole run. The initial collection takes at least agent.initial_steps, and each
    further step leaves fewer for later epochs."""
    counts = updates(config)
    return _occurrences(counts.denoiser, counts.reward_end, counts.actor_critic, config.agent.budget)


def _occurrences(denoiser: int, reward_end: int, actor_critic: int, real_steps: int) -> Mapping[str, float]:
    counts = (denoiser, reward_end, actor_critic, actor_critic, real_steps)
    return dict(zip((*PROFILED_UPDATES, "start_segments", "real_step"), map(float, counts), strict=True))


_WAYS = {
    "plain": "Plain: the same networks eager, in fp32, weights in PyTorch's own layout, no option of execution; timed in turn with it.",
    "authors": "Authors: the same networks in TF32, the imagination's forward passes compiled, updates eager, weights in PyTorch's own "
    "layout; timed in turn with it. Their CUDA graphs (torch.compile's reduce-overhead) are not in it.",
}


def notes(config: Profile, ways: Sequence[Mapping[str, str]], load: tuple[float, float]) -> list[str]:
    """Notes that a reader of the numbers needs. `load` is the load of the machine before and after."""
    training = config.training
    names = ("configured", config.compare)
    executed = "; ".join(f"{name}: {_executed(way)}" for name, way in zip(names, ways, strict=False))
    found = [
        f"Executed: {executed}.",
        "Random frames, actions and rewards, fresh networks; no imagined episode ends before its horizon.",
        f"Batches: denoiser {training.training.batch_size} x {training.training.num_autoregressive_steps + 1} frames, reward/end model "
        f"{training.reward_end.batch_size} x {training.reward_end.segment_length - 1}, imagined games {training.actor_critic.batch_size}; "
        f"frames of {training.env.frame_size} x {training.env.frame_size}.",
    ]
    lacking = [name for name in per_epoch(training) if name not in config.measures]
    if lacking:
        found.append(f"Epoch and run are left out: --parts leaves out {', '.join(lacking)}.")
    else:
        found.append(
            "Epoch and run: medians times the updates and real steps that the config asks for (of a run at most: a longer initial "
            "collection leaves fewer epochs); test games, checkpoints, logs and the loop's own overhead are left out."
        )
    if training.agent.collection == "concurrent":
        found.append("Real steps are played during updates (`agent.collection=concurrent`); their time is added all the same.")
    if training.execution.cuda_graphs == "all":
        found.append(
            "An update is one CUDA graph, and so is an imagined step where it is timed alone; renewal and loss are timed as they are "
            "without. What is left of an update is therefore not said."
        )
    if max(load) > training.execution.num_threads + 0.5:
        found.append(
            f"Other work ran on this machine: its load was {load[0]:.1f} before and {load[1]:.1f} after, with "
            f"{training.execution.num_threads} threads of ours; ratios suffer less than times."
        )
    return found + ([_WAYS[config.compare]] if config.compare else [])


def _executed(way: Mapping[str, str]) -> str:
    return ", ".join(value if name == "precision" else f"{name} {value}" for name, value in way.items())


_PER = {"s": "seconds", "bytes": "bytes", "syncs/step": "per_step", "syncs/update": "per_update", "FLOP/s": "flop_per_second"}


def rows_of(line: Line) -> list[Row]:
    """The rows of a line for the results table. The unit becomes part of a row's name, unless the name ends in it already."""
    unit = _PER.get(line.unit)
    name = line.name if unit is None or line.name.endswith(unit) else f"{line.name}_{unit}"
    found = [] if line.median is None else [Row(name, line.median, measured=True)]
    return [*found, *([] if line.ratio is None else [Row(f"{line.name}_ratio", line.ratio, measured=True)])]
