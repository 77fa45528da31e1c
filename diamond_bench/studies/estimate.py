"""The expected cost of a plan: device hours as a range, and disk. From counted arithmetic and the speeds in speed.py."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from diamond_bench.store.artifacts import Store
from diamond_bench.store.cost import InputConfigs, Inputs
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import KINDS
from diamond_bench.store.states import JobState
from diamond_bench.studies.execution import device_type
from diamond_bench.studies.speed import ASSUMED, START_SECONDS, Speed, SpeedClass, measured, slowness, unmeasured


@dataclass(frozen=True)
class Estimate:
    """The cost of jobs still to run, one after the other on one device."""

    jobs: int
    device_hours: float
    """Expected time, between the two that follow."""
    low_hours: float
    high_hours: float
    gigabytes: float
    """Disk space of the finished jobs."""
    passing_gigabytes: float
    """The maximum additional space of one job while it runs."""
    basis: str
    """The source of the rates."""
    seconds: Mapping[JobRef, float]
    """The expected time of each job, without the start of its worker."""


def estimate(
    specs: Mapping[JobRef, JobSpec], missing: Iterable[JobRef], store: Store, states: Mapping[JobRef, JobState] | None = None
) -> Estimate:
    """Sums the cost of the missing jobs of a plan, at rates measured in this store or, failing that, assumed.

    `states`: those of the store's jobs, if they are already known.
    """
    jobs, speeds = _expected(specs, missing, store, states)
    seconds = START_SECONDS * slowness() if jobs else 0.0
    low, high, size, passing = seconds / 3, seconds * 3, 0.0, 0.0
    of_job: dict[JobRef, float] = {}
    for spec, inputs, speed_class in jobs:
        cost, expected = KINDS[spec.kind].costs, _seconds(spec, inputs, speed_class, speeds[speed_class])
        spread = speeds[speed_class].spread(cost.work(spec.config, inputs))
        seconds, of_job[spec.ref] = seconds + expected, expected
        low += expected / spread
        high += expected * spread
        size += cost.disk(spec.config, inputs)
        passing = max(passing, cost.passing_disk(spec.config, inputs))
    basis = _basis([speed_class for _, _, speed_class in jobs], speeds)
    return Estimate(len(jobs), seconds / 3600, low / 3600, high / 3600, size / 1e9, passing / 1e9, basis, of_job)


def _expected(
    specs: Mapping[JobRef, JobSpec], missing: Iterable[JobRef], store: Store, states: Mapping[JobRef, JobState] | None
) -> tuple[list[tuple[JobSpec, Inputs, SpeedClass]], dict[SpeedClass, Speed]]:
    """The missing jobs with the configs of their inputs and their likeness, and the speed of each likeness."""
    todo = [specs[ref] for ref in missing]
    specs = {**specs, **{need: store.spec(need) for spec in todo for need in spec.inputs.values() if need not in specs}}
    needs = [input_configs(spec, specs) for spec in todo]
    jobs = [(spec, inputs, _speed_class(spec, inputs)) for spec, inputs in zip(todo, needs, strict=True)]
    speeds = _measured({speed_class for _, _, speed_class in jobs}, store, store.states() if states is None and todo else states or {})
    for spec, inputs, speed_class in jobs:
        if speed_class not in speeds:
            speeds[speed_class] = unmeasured(speed_class, KINDS[spec.kind].costs.arithmetic(spec.config, inputs).width)
    return jobs, speeds


def _seconds(spec: JobSpec, inputs: Inputs, speed_class: SpeedClass, speed: Speed) -> float:
    cost = KINDS[spec.kind].costs
    return cost.work(spec.config, inputs) / speed.rate + speed.fixed * cost.fixed_seconds(spec.config, speed_class[1])


def checkpoint_intervals(
    specs: Mapping[JobRef, JobSpec], refs: Iterable[JobRef], store: Store, states: Mapping[JobRef, JobState], on_gpu: Callable[[str], bool]
) -> dict[JobRef, tuple[float, str, str]]:
    """(seconds between two checkpoints, the key that sets it, the source of the rate) of the trainings among `refs`, once per config.

    `on_gpu`: whether a kind of job runs on a GPU.
    """
    every = {}
    for ref, config in {specs[ref].config: (ref, specs[ref].config) for ref in refs}.values():
        checkpoint = KINDS[ref.kind].costs.checkpoint
        if checkpoint is not None:
            every[ref] = checkpoint(config)
    speed_classes = {
        ref: _speed_class(specs[ref], input_configs(specs[ref], specs), "cuda" if on_gpu(ref.kind) else "cpu") for ref in every
    }
    speeds = _measured(set(speed_classes.values()), store, states)
    found = {}
    for ref, saved in every.items():
        speed_class = speed_classes[ref]
        speed = speeds.get(speed_class, Speed(ASSUMED[speed_class[1]], 1.0, "assumed"))
        seconds = job_work(specs[ref], specs) / speed.rate * min(1.0, saved.every / saved.total)
        found[ref] = seconds, f"{saved.key}={saved.every}", _basis([speed_class], {speed_class: speed})
    return found


def _basis(speed_classes: Iterable[SpeedClass], speeds: Mapping[SpeedClass, Speed]) -> str:
    speed_classes = list(dict.fromkeys(speed_classes))
    words = {
        "measured": "measured on jobs in this store",
        "timed": "from a timing of this machine",
        "assumed": f"assumed ({ASSUMED['cuda']:.0e} FLOP/s on a GPU)",
    }
    if any(speed_class[1] == "cpu" and speeds[speed_class].basis == "assumed" for speed_class in speed_classes):
        words["assumed"] = f"assumed ({ASSUMED['cpu']:.0e} FLOP/s on the CPU)"
    seen = {speed_class[0] for speed_class in speed_classes if speeds[speed_class].basis == "measured"}
    parts = []
    for basis, how in words.items():
        names = {speed_class[0] for speed_class in speed_classes if speeds[speed_class].basis == basis}
        other = {f"{name} of another network or device" if basis != "measured" and name in seen else name for name in names}
        parts += [f"speed of {', '.join(sorted(other))} {how}"] if other else []
    return "; ".join(parts)


def _measured(speed_classes: set[SpeedClass], store: Store, states: Mapping[JobRef, JobState]) -> dict[SpeedClass, Speed]:
    return measured(speed_classes, store, states, _speed_class)


def time_range(low: float, high: float) -> str:
    """A range of hours in words, such as "2 to 6 minutes". The lower bound is rounded down and the upper up, to two digits."""
    unit = _unit(high)
    of_low = unit if low * _UNITS[unit] >= 1 else _unit(low)
    least, most = _two_digits(low * _UNITS[of_low], up=False), _two_digits(high * _UNITS[unit], up=True)
    return f"{least:,} to {most:,} {unit}" if of_low == unit else f"{least:,} {of_low} to {most:,} {unit}"


_UNITS = {"seconds": 3600.0, "minutes": 60.0, "hours": 1.0}


def _unit(hours: float) -> str:
    return "seconds" if hours * 3600 < 120 else "minutes" if hours * 60 < 120 else "hours"


def _two_digits(value: float, up: bool) -> int:
    step: int = 10 ** max(0, math.floor(math.log10(max(1.0, value))) - 1)
    return step * int(math.ceil(value / step) if up else math.floor(value / step))


def job_work(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> float:
    """The work of a job in the unit of its kind: frames for a dataset or for play, FLOP of the networks for all others."""
    return KINDS[spec.kind].costs.work(spec.config, input_configs(spec, specs))


def input_configs(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> Inputs:
    """The configs of a job's inputs by name. The inputs are among `specs`."""
    return InputConfigs(spec.inputs, lambda ref: specs[ref].config)


def _speed_class(spec: JobSpec, inputs: Inputs, device: str = "") -> SpeedClass:
    """`device`: where the job ran or will run. Empty for the config's device."""
    arithmetic = KINDS[spec.kind].costs.arithmetic(spec.config, inputs)
    device = device_type(device or arithmetic.device) if arithmetic.network else "cpu"
    return spec.kind, device, arithmetic.network, arithmetic.precision
