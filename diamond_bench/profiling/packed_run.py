"""One of the trainings that share a device while `packing.py` measures them: an ordinary job, run by an ordinary worker."""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diamond_bench.config import ExecutionConfig
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.store.kinds import Kind, TrainAgent

if TYPE_CHECKING:
    import torch

UPDATES = ("denoiser", "reward_end", "actor_critic")
MAX_UPDATES = 60
"""Approximate maximum number of updates per cycle, so that a slice of a few seconds contains several cycles."""
_REAL_ROWS = 1024
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class PackedRun:
    """Config of `packed_run`, a job of a store that lives as long as a measurement."""

    training: TrainAgent
    turn: float = 0.0
    """The start position in a cycle, in [0, 1), so that runs that share a device are not at the same point of their epochs."""

    @property
    def execution(self) -> ExecutionConfig:
        """The run's execution, from which the worker takes the number of threads."""
        return self.training.execution


KINDS: Mapping[str, Kind] = {"packed_run": Kind(PackedRun, "diamond_bench.profiling.packed_run:run", 1)}


@dataclass(frozen=True)
class RunFiles:
    """Files in the folder of a run, through which a measurement pauses it while others work, and reads its progress."""

    folder: Path

    @property
    def pause(self) -> Path:
        """The measurement creates this file to pause the run, and removes it to let the run continue."""
        return self.folder / "pause"

    @property
    def paused(self) -> Path:
        """The run has this file while it waits."""
        return self.folder / "paused"

    @property
    def ends(self) -> Path:
        """The run appends a line per cycle: its end, in seconds on the system's monotonic clock."""
        return self.folder / "ends"

    def read_ends(self) -> Sequence[float]:
        """Ends of all cycles until now."""
        text = self.ends.read_text() if self.ends.exists() else ""
        return [float(line) for line in text[: text.rfind("\n") + 1].split()]


def run(config: PackedRun, context: JobContext) -> Result:
    """Works until it is asked to stop. The fact `bytes` is its peak memory. A run is never resumed."""
    import torch

    from diamond_bench.jobs.memory import reserved_bytes, reset_peak

    device, counts, files = torch.device(context.device), mixture(config.training), RunFiles(context.folder)
    reset_peak(device)
    works = works_of(config.training, device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for number in itertools.count():
        for name, times in cycle(counts, number, config.turn):
            works[name](times)
            if files.pause.exists():
                wait()
                files.paused.touch()
                while files.pause.exists() and not context.should_stop():
                    time.sleep(_POLL_SECONDS)
                files.paused.unlink()
            if context.should_stop():
                wait()
                return Result(info={"bytes": reserved_bytes(device)})
        wait()
        with files.ends.open("a") as ends:
            ends.write(f"{time.monotonic()!r}\n")
    raise AssertionError("unreachable")


def mixture(config: TrainAgent) -> Mapping[str, int]:
    """Number of occurrences of each kind of work in a later epoch that collects. Work that the config asks for 0 times is left out."""
    agent = config.agent
    counts = (agent.denoiser_updates, agent.reward_end_updates, agent.actor_critic_updates, agent.steps_per_epoch)
    return {name: count for name, count in zip((*UPDATES, "real_step"), counts, strict=True) if count}


def cycles_of(counts: Mapping[str, int]) -> int:
    """Number of cycles into which an epoch is divided: as many as the whole numbers of updates allow, and at least one per MAX_UPDATES
    updates."""
    updates = [count for name, count in counts.items() if name in UPDATES]
    return max(math.gcd(*updates), math.ceil(sum(updates) / MAX_UPDATES), 1)


def cycle(counts: Mapping[str, int], number: int, turn: float = 0.0) -> Sequence[tuple[str, int]]:
    """The work of a cycle in order, as (kind, repetitions). Kinds alternate, and real steps come in one block.

    If a count is no multiple of the number of cycles, some cycles do one more than others, so that an epoch of cycles does the count.
    """
    pieces = cycles_of(counts)
    due = {name: (number + 1) * count // pieces - number * count // pieces for name, count in counts.items()}
    at = [((i + 0.5) / due[name], name, 1) for name in UPDATES for i in range(due.get(name, 0))]
    at += [(0.0, "real_step", due["real_step"])] if due.get("real_step") else []
    work = [(name, times) for _, name, times in sorted(at)]
    first = int(turn * len(work))
    return [*work[first:], *work[:first]]


def with_frequent_loads(config: TrainAgent) -> TrainAgent:
    """The same training, but with start segments loaded every few updates, not for hundreds of updates at once in one of the cycles."""
    from diamond_bench.imagination.starts import BURN_IN_BATCH_SIZE

    settings = config.actor_critic
    # the segments of a rollout, and those that are burnt in at once
    blocks = settings.steps_per_update + -(-BURN_IN_BATCH_SIZE // settings.batch_size)
    return replace(config, actor_critic=replace(settings, preload=min(settings.preload, blocks)))


def works_of(config: TrainAgent, device: "torch.device") -> Mapping[str, Callable[[int], object]]:
    """For each kind of work, a function that does it a given number of times, with fresh networks, random data, and a replay as large as
    that of a finished training."""
    import torch

    from diamond_bench.data.replay import Replay
    from diamond_bench.jobs.agent_learners import Learners
    from diamond_bench.jobs.agent_play import RealPlay
    from diamond_bench.profiling.parts import never_end, random_replay
    from diamond_bench.training.means import Means

    torch.manual_seed(config.seed)
    generator = torch.Generator(device).manual_seed(config.seed)
    learners = Learners(with_frequent_loads(config), device, random_replay(config, device), generator)
    assert learners.agent.reward_end is not None
    never_end(learners.agent.reward_end)
    play = RealPlay(config, learners, Replay(_REAL_ROWS, config.env.frame_size, device))
    means = Means(device)

    def update(name: str) -> Callable[[int], object]:
        return lambda times: [learners.update(name) for _ in range(times)]

    return {**{name: update(name) for name in UPDATES}, "real_step": lambda times: play.collect(times, means)}
