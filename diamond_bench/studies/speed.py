"""The speed of jobs: measured from finished jobs of a store, else from a short timing of this machine, else assumed. Without torch."""

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
from diamond_bench.studies.execution import usable_cores

SpeedClass = tuple[str, str, str, str]
"""The common properties of jobs with the same speed: kind, type of device, network, precision."""
ASSUMED = {"cpu": 6e10, "cuda": 3e13}
"""FLOP/s without any measurement, for two laptop cores and a data-centre GPU. Orders of magnitude."""
CORE_FLOPS = 9e10
"""FLOP/s of one idle CPU core in small matrix products: the reference core on which the numbers below were measured."""
NETWORK_FLOPS = 8e10
"""FLOP/s of a network of 64 channels on two of those cores. Narrower ones are slower in proportion: 1e10 at 8 channels, 2e10 at 16."""
START_SECONDS = 8.0
"""Seconds until a worker has begun its first job, on such a core: it imports torch."""
STEPS_PER_SECOND = 1500.0
"""Game steps per second on such a core."""
_TIMING_SECONDS = 0.05
_MAX_READ = 200
SPREADS = {"measured": 1.6, "extrapolated": 2.5, "timed": 3.0, "assumed": 5.0}
"""By the source of a rate, the factor by which a job may take longer or shorter (docs/measurements/speed.md describes how it was found)."""
_FAR = 10.0
"""A job that is this many times larger or smaller than all measured ones is extrapolated."""


@dataclass(frozen=True)
class Speed:
    """The speed of similar jobs."""

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
        """The factor by which a job with this work may take longer or shorter than expected."""
        near = self.least / _FAR <= work <= self.most * _FAR
        return SPREADS["extrapolated" if self.basis == "measured" and not near else self.basis]


@functools.cache
def slowness() -> float:
    """The expected slowdown of jobs compared with an idle reference core, at least 1.

    It combines the speed of this machine's core, from small matrix products of 0.05 s of its time, and the square root of the load per core
    over the last minute: other processes may end before the jobs do. The products are small, so that a library uses one thread.
    """
    import numpy as np

    matrix = np.random.default_rng(0).random((64, 64), np.float32)
    matrix @ matrix
    began, products = time.process_time(), 0
    while (seconds := time.process_time() - began) < _TIMING_SECONDS:
        for _ in range(20):
            matrix @ matrix
        products += 20
    crowd = max(1.0, os.getloadavg()[0] / usable_cores())
    return max(1.0, CORE_FLOPS / (2 * 64**3 * products / seconds)) * math.sqrt(crowd)


def unmeasured(speed_class: SpeedClass, width: float) -> Speed:
    """The speed of jobs without similar finished ones. `width`: mean channels of the network."""
    if speed_class[1] == "cuda":
        return Speed(ASSUMED["cuda"], 1.0, "assumed")
    slow = slowness()
    return Speed(NETWORK_FLOPS * min(1.0, width / 64) / slow if speed_class[2] else STEPS_PER_SECOND / slow, slow, "timed")


def measured(
    classes: set[SpeedClass], store: Store, states: Mapping[JobRef, JobState], class_of: Callable[[JobSpec, Inputs, str], SpeedClass]
) -> dict[SpeedClass, Speed]:
    """The speeds of jobs, by speed class, from the records of finished ones.

    A job recorded the work and time of its networks (`work`, `work_seconds`) and its total time. The rest is its fixed part, which is
    compared to its kind's expectation on the reference core. If a job recorded no work, its kind provides it, and the fixed part is
    subtracted from its time. `class_of` maps a job, the configs of its inputs and the device it ran on to its speed class. Medians over
    jobs. At most 200 of a store's jobs are read.
    """
    kinds = {speed_class[0] for speed_class in classes}
    done = [ref for ref, state in states.items() if ref.kind in kinds and state.status == "done"]
    found: dict[SpeedClass, list[tuple[float, float, float]]] = defaultdict(list)
    for ref in done[-_MAX_READ:]:
        try:
            result, spec = store.result(ref), store.spec(ref)
            inputs, cost = InputConfigs(spec.inputs, lambda need: store.spec(need).config), KINDS[spec.kind].costs
            speed_class = class_of(spec, inputs, str(result.recorded.get("device", "cpu")))
        except (UserError, PermissionError):  # damaged, unreadable or of another version: not used, and the sweep reports it itself
            continue
        total, expected = _number(result.recorded.get("seconds")), cost.fixed_seconds(spec.config, speed_class[1])
        work, seconds = _number(result.info.get("work")), _number(result.info.get("work_seconds"))
        if work > 0 and seconds > 0:
            found[speed_class].append((work, work / seconds, max(0.0, total - seconds) / expected if total > seconds else 1.0))
        elif not speed_class[2] and total > 0 and (work := cost.work(spec.config, inputs)) > 0:
            found[speed_class].append((work, work / max(total - expected, 0.3 * total), 1.0))
    return {speed_class: _median(jobs) for speed_class, jobs in found.items() if speed_class in classes}


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _median(jobs: Iterable[tuple[float, float, float]]) -> Speed:
    works, rates, fixed = zip(*jobs, strict=True)
    return Speed(statistics.median(rates), statistics.median(fixed), "measured", min(works), max(works))
