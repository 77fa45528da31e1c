"""What trainings of agents take on one GPU and on eight: hours, order, disk and packing. Without torch.

The speed of a GPU comes from profiles in the store and from the paper. If the store has no profile of a GPU, a speed is assumed as well.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from diamond_bench.costs.train_agent import agent_work
from diamond_bench.errors import UserError
from diamond_bench.launch.local import begin_order
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import KINDS, Profile, TrainAgent
from diamond_bench.store.states import JobState
from diamond_bench.studies.estimate import Estimate, time_range
from diamond_bench.studies.speed import ASSUMED, SPREADS

GPUS = (1, 8)
"""Numbers of GPUs that a plan is made for."""
PUBLISHED_DAYS = 2.9
"""Days of one run of the authors' code on an RTX 4090 (paper, table 5)."""
_DAY = 86400.0
_WORTH_HOURS = 1.0
"""Shorter trainings get no plan: the time of one device says enough about them."""


@dataclass(frozen=True)
class Speed:
    """How fast one GPU trains agents, and how that is known."""

    source: str
    rate: float
    """FLOP per second of all trainings on the GPU together, counted as in planning (`agent_work`)."""
    at_once: int = 1
    """Trainings on the GPU at once."""
    spread: float = 1.0
    """The factor by which a training may take longer or shorter. 1 if it is unknown."""
    measured: bool = False
    """Whether a profile of this store measured it."""


@dataclass(frozen=True)
class Course:
    """The hours until all jobs are done, for each number of `GPUS`, at one speed."""

    speed: Speed
    hours: tuple[float, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The hours as people read them."""
        spread = self.speed.spread
        return tuple(f"about {float(f'{h:.2g}'):,g} hours" if spread == 1 else time_range(h / spread, h * spread) for h in self.hours)


@dataclass(frozen=True)
class DevicePlan:
    """A plan of the missing jobs of a study of agents on GPUs."""

    trainings: int
    flop: float
    """FLOP of all trainings."""
    courses: tuple[Course, ...]
    sentences: tuple[str, ...]
    """Where no speed is measured, the order of jobs, the disk, and packing."""


def device_plan(
    jobs: Mapping[JobRef, JobSpec], missing: Sequence[JobRef], store: Store, states: Mapping[JobRef, JobState], cost: Estimate
) -> DevicePlan | None:
    """The plan of the missing jobs, or None if no training among them takes an hour of a GPU at the assumed speed.

    `cost`: the estimate of the missing jobs. It has the seconds of those that are not trainings, and the disk.
    """
    trainings = {ref: jobs[ref].config for ref in missing if ref.kind == "train_agent"}
    work = {ref: agent_work(config) for ref, config in trainings.items()}
    if max(work.values(), default=0.0) / ASSUMED["cuda"] < _WORTH_HOURS * 3600:
        return None
    speeds = list(_speeds(list(trainings.values()), store, states))
    courses = []
    for speed in speeds:
        seconds = {ref: work[ref] * speed.at_once / speed.rate if ref in work else cost.seconds[ref] for ref in missing}
        courses.append(Course(speed, tuple(makespan(jobs, seconds, gpus * speed.at_once) / 3600 for gpus in GPUS)))
    return DevicePlan(len(trainings), sum(work.values()), tuple(courses), tuple(_sentences(speeds, jobs, missing, cost)))


def makespan(jobs: Mapping[JobRef, JobSpec], seconds: Mapping[JobRef, float], workers: int) -> float:
    """Seconds until the jobs of `seconds` are done, if a free worker takes the first ready one in the order of a local sweep of `jobs`."""
    place = begin_order(jobs, KINDS)
    waiting = {ref: {need for need in jobs[ref].inputs.values() if need in seconds} for ref in seconds}
    dependents: dict[JobRef, list[JobRef]] = {ref: [] for ref in seconds}
    for ref, needs in waiting.items():
        for need in needs:
            dependents[need].append(ref)
    ready: list[tuple[int, JobRef]] = []
    running: list[tuple[float, int, JobRef]] = []
    for ref in (ref for ref, needs in waiting.items() if not needs):
        heappush(ready, (place[ref], ref))
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            number, ref = heappop(ready)
            heappush(running, (now + seconds[ref], number, ref))
        now, _, ended = heappop(running)
        for ref in dependents[ended]:
            waiting[ref].discard(ended)
            if not waiting[ref]:
                heappush(ready, (place[ref], ref))
    return now


def _speeds(trainings: Sequence[TrainAgent], store: Store, states: Mapping[JobRef, JobState]) -> Iterator[Speed]:
    """The known speeds for these trainings, measured ones first. Without a measured one, the assumed speed is the last."""
    networks = {_network(training) for training in trainings}
    found = _profiled(networks.pop(), store, states) if len(networks) == 1 else []
    yield from found
    paper = TrainAgent("Breakout", 0)
    if all(_network(training) == _network(paper) for training in trainings):
        text = f"paper, table 5: the authors' code on an RTX 4090, {PUBLISHED_DAYS} days per run of its size"
        yield Speed(text, agent_work(paper) / (PUBLISHED_DAYS * _DAY))
    if not found:
        yield Speed(f"assumption: {ASSUMED['cuda']:.0e} FLOP/s", ASSUMED["cuda"], spread=SPREADS["assumed"])


def _network(training: TrainAgent) -> str:
    return KINDS["train_agent"].costs.arithmetic(training, {}).network


def _profiled(network: str, store: Store, states: Mapping[JobRef, JobState]) -> list[Speed]:
    """The speeds that profiles of GPUs measured for this network, the newest of each device, execution and number of trainings at once."""
    newest: dict[tuple[str, str, int], tuple[str, Speed]] = {}
    for ref in (ref for ref, state in states.items() if ref.kind == "profile" and state.status == "done"):
        try:
            config, result = store.spec(ref).config, store.result(ref)
        except (UserError, PermissionError):  # table 5 and the profile's own command report it
            continue
        if not config.execution.device.startswith("cuda") or _network(config.training) != network:
            continue
        when = str(result.recorded.get("finished", ""))
        for at_once, rate in _rates(config, {line["name"]: line for line in result.info["lines"]}):
            text = f"profile {ref.id}: {config.device_name}, {config.executed}{', MPS' * config.mps}"
            key = config.device_name, f"{config.executed} {config.mps}", at_once
            if when >= newest.get(key, ("",))[0]:
                newest[key] = when, Speed(text, rate, at_once, SPREADS["measured"], measured=True)
    return [newest[key][1] for key in sorted(newest)]


def _rates(config: Profile, lines: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[int, float]]:
    """(trainings at once, FLOP per second of all together) that the lines of a profile show."""
    work = agent_work(config.training)
    if "run" in lines:
        yield 1, work / lines["run"]["median"]
    for number in config.packed or ():
        line = lines[f"packed_{number}"]
        yield 1, work * line["other"] / _DAY
        yield number, work * line["median"] / _DAY


def _sentences(speeds: Sequence[Speed], jobs: Mapping[JobRef, JobSpec], missing: Sequence[JobRef], cost: Estimate) -> Iterator[str]:
    measured = [speed for speed in speeds if speed.measured]
    if not measured:
        yield (
            "No profile of a GPU with this network is in this store, so the speed of your GPU is unknown. Run `diamond-bench profile` with "
            "the settings of this sweep on your GPU, and repeat this command."
        )
    place = begin_order(jobs, KINDS)
    kinds = Counter(ref.kind for ref in sorted(missing, key=place.__getitem__))
    yield f"Order: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}. A free GPU takes the first job whose inputs are done."
    running = f", and up to {cost.passing_gigabytes:.3g} GB more for each running job" if cost.passing_gigabytes else ""
    yield f"Disk: {cost.gigabytes:.3g} GB at the end{running}."
    packed = [speed for speed in measured if speed.at_once > 1]
    if not packed:
        yield "Packing several trainings on a GPU: not measured. `diamond-bench profile --packed 2,4,8` measures it on your GPU."
    else:
        best = max(measured, key=lambda speed: speed.rate)
        yield (
            f"Packing: the fastest measured way has {best.at_once} at once on a GPU (`cluster.num_workers={best.at_once}` for each GPU of "
            f"this machine, `cluster.packed={best.at_once}` on SLURM)."
        )
