"""A worker on a CPU keeps the memory that a job frees, until the job ends (diamond_bench/launch/memory.py)."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_jobs import Count

from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.launch.local import run_local
from diamond_bench.launch.memory import keep_memory
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.kinds import Kind

KINDS = {"count": Kind(Count, "test_kept_memory:run", 1)}
KNOWN = (2, 36)
"""The version of glibc with which this was tested. Older ones may refuse."""
PAGES = 2**26 // 2**21
"""Page faults of an array of 64 MiB if the system grants huge pages. Otherwise there are 512 times as many."""


def faults() -> int:
    """Page faults of an array that is freed at once. By default glibc maps arrays of its size and unmaps them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def run(config: Count, context: JobContext) -> Result:
    """A job that writes the page faults of two equal arrays."""
    (context.folder / "faults").write_text(f"{faults()} {faults()}")
    return Result([], {})


def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)


def keeps() -> bool:
    """Whether a new process can keep memory."""
    script = "from diamond_bench.launch.memory import keep_memory; print(keep_memory())"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "True\n"


def test_jobs_use_freed_memory_again_and_give_it_back_at_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_variables(monkeypatch)
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split("."))) < KNOWN:
        pytest.skip(f"not known to keep memory: {name} {version}")
    assert keeps()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    store = Store(tmp_path, kinds=KINDS, say=lambda text: None)
    specs = [JobSpec("count", Count(name), {}, revision=1) for name in "ab"]
    summary = run_local(store, specs, num_workers=1, device="cpu", worker_arguments=("--kinds", "test_kept_memory:KINDS"))
    assert not summary.failed
    for spec in specs:
        first, second = map(int, (store.folder(spec.ref) / "faults").read_text().split())
        assert first >= PAGES
        assert second < PAGES // 4
    assert faults() >= PAGES, "this process, which is no worker, gives memory back"


def test_a_user_s_own_settings_of_memory_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_memory()
