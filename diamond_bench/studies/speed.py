"""How fast jobs run: learned from the finished jobs of a store, else from a short timing of this machine, else assumed. No torch."""

import functools
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store
from diamond_bench.store.cost import InputConfigs, Inputs
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import KINDS
from diamond_bench.store.states import JobState

Like = tuple[str, str, str, str]
"""What jobs of one speed have in common: kind, type of device, network, precision."""
ASSUMED = {"cpu": 6e10, "cuda": 3e13}
"""FLOP/s where nothing was measured: two laptop cores, a data-centre GPU. Orders of magnitude."""
CORE_FLOPS = 9e10
"""FLOP/s of one CPU core in small matrix products, where nothing else runs: the core on which the numbers below were measured."""
NETWORK_FLOPS = 3e10
"""FLOP/s of a network of 64 channels on two of those cores. Narrower ones are slower in proportion: 3e9 at 8 channels, 8e9 at 16."""
START_SECONDS = 8.0
"""Time until a worker has begun its first job, on such a core: it imports torch."""
STEPS_PER_SECOND = 1500.0
"""Game steps on such a core."""
_TIMING_SECONDS = 0.05
_MAX_READ = 200
_SPREADS = {"measured": 1.6, "extrapolated": 2.5, "timed": 3.0, "assumed": 5.0}
"""By where a rate comes from: how many times longer or shorter a job may take (docs/measurements/speed.md says how that was found)."""
_FAR = 10.0
"""A job this many times larger or smaller than those measured is extrapolated to."""


@dataclass(frozen=True)
class Speed:
    """How fast the jobs of one likeness run."""

    rate: float
    """Work per second: floating-point operations, or game steps."""
    fixed: float
    """Factor by which the fixed part of a job takes longer than on the reference core."""
    basis: str
    """measured, timed or assumed."""
    least: float = 0.0
    """Work of the smallest measured job."""
    most: float = float("inf")

    def spread(self, work: float) -> float:
        """How many times longer or shorter than expected a job of so much work may take."""
        near = self.least / _FAR <= work <= self.most * _FAR
        return _SPREADS["extrapolated" if self.basis == "measured" and not near else self.basis]


@functools.cache
def slowness() -> float:
    """How many times slower than on an idle reference core jobs are expected to be; 1 at least.

    That is the speed of this machine's core, from small matrix products of 0.05 s of its time, and the square root of the load of the last
    minute per core: what else runs may end before the jobs do. The products are small, so that a library takes one thread.
    """
    import numpy as np

    matrix = np.random.default_rng(0).random((64, 64), np.float32)
    matrix @ matrix
    began, products = time.process_time(), 0
    while (seconds := time.process_time() - began) < _TIMING_SECONDS:
        for _ in range(20):
            matrix @ matrix
        products += 20
    crowd = max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    return max(1.0, CORE_FLOPS / (2 * 64**3 * products / seconds)) * math.sqrt(crowd)


def unmeasured(like: Like, width: float) -> Speed:
    """The speed of jobs like which none is finished; `width`: mean channels of the network."""
    if like[1] == "cuda":
        return Speed(ASSUMED["cuda"], 1.0, "assumed")
    slow = slowness()
    return Speed(NETWORK_FLOPS * min(1.0, width / 64) / slow if like[2] else STEPS_PER_SECOND / slow, slow, "timed")


def measured(
    likes: set[Like], store: Store, states: Mapping[JobRef, JobState], like_of: Callable[[JobSpec, Inputs, str], Like]
) -> dict[Like, Speed]:
    """The speed of jobs of these likenesses, from what finished ones recorded.

    A job recorded the work and time of its networks (`work`, `work_seconds`) and its whole time. The rest is its fixed part, compared to
    what its kind expects on the reference core. Where a job recorded no work, its kind gives it, and the fixed part is taken off its
    time. `like_of` takes a job, the configs of its inputs and the device it ran on. Medians over jobs; of a store's jobs, at most 200
    are read.
    """
    kinds = {like[0] for like in likes}
    done = [ref for ref, state in states.items() if ref.kind in kinds and state.status == "done"]
    found: dict[Like, list[tuple[float, float, float]]] = defaultdict(list)
    for ref in done[-_MAX_READ:]:
        try:
            result, spec = store.result(ref), store.spec(ref)
            inputs, cost = InputConfigs(spec.inputs, lambda need: store.spec(need).config), KINDS[spec.kind].costs
            like = like_of(spec, inputs, str(result.recorded.get("device", "cpu")))
        except (UserError, PermissionError):  # damaged, unreadable or of another version: no measure, and the sweep says so itself
            continue
        total, expected = _number(result.recorded.get("seconds")), cost.fixed_seconds(spec.config, like[1])
        work, seconds = _number(result.info.get("work")), _number(result.info.get("work_seconds"))
        if work > 0 and seconds > 0:
            found[like].append((work, work / seconds, max(0.0, total - seconds) / expected if total > seconds else 1.0))
        elif not like[2] and total > 0:
            work = cost.work(spec.config, inputs)
            found[like].append((work, work / max(total - expected, 0.3 * total), 1.0))
    return {like: _median(jobs) for like, jobs in found.items() if like in likes}


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _median(jobs: Iterable[tuple[float, float, float]]) -> Speed:
    works, rates, fixed = zip(*jobs, strict=True)
    return Speed(statistics.median(rates), statistics.median(fixed), "measured", min(works), max(works))
