"""Parts of a training under pytest-benchmark: the same pieces of work that `diamond-bench profile` times, to be compared over commits.

Not part of the tests (the name of this file keeps it out of them); its own command, with the group `bench` installed:

    python -m pytest tests/benchmarks/bench_training.py --benchmark-autosave
    python -m pytest tests/benchmarks/bench_training.py --benchmark-compare

`DIAMOND_BENCH_PROFILE` holds overrides of `diamond-bench profile`; without it, scale=smoke on the CPU.
"""

import os
import shlex
from typing import Any

import pytest
import torch

from diamond_bench.launch.devices import resolve_device
from diamond_bench.profiling.parts import Parts, random_replay
from diamond_bench.store.kinds import Profile
from diamond_bench.store.profiled import PROFILED
from diamond_bench.studies.single import plan_profile

pytest.importorskip("pytest_benchmark")

_NAMES = tuple(name for name in PROFILED if name not in ("peak_memory", "host_synchronisations"))


@pytest.fixture(scope="module")
def parts() -> Parts:
    asked = shlex.split(os.environ.get("DIAMOND_BENCH_PROFILE", "scale=smoke execution.device=cpu"))
    (spec,) = plan_profile(asked, None, lambda device: (resolve_device(device), "")).jobs.values()
    config: Profile = spec.config
    torch.set_num_threads(config.execution.num_threads)
    device = torch.device(config.execution.device)
    return Parts(config.training, device, random_replay(config.training, device))


@pytest.mark.parametrize("name", _NAMES)
def test_part(name: str, parts: Parts, benchmark: Any) -> None:
    work = parts.works[name]

    def wait() -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def call() -> None:
        work.call()
        wait()

    def before() -> None:
        work.before(1)
        wait()  # what a preparation gave the device must not be timed

    benchmark.pedantic(call, setup=before, rounds=10, warmup_rounds=6)


def test_every_part_of_a_profile_is_here(parts: Parts) -> None:
    assert list(_NAMES) == list(parts.works)
