"""Freed memory stays with a process of a job (diamond_bench/launch/memory.py)."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from diamond_bench.launch.memory import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)  # 128 MiB, which glibc always maps and unmaps by default
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = len(sys.argv) > 1 and keep_memory()
faults()
print(kept, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    """Without the call the second array faults in all of its pages, in units of 2 MiB at most where the system grants huge pages."""
    found = {}
    for words in ((), ("keep",)):
        done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=True)
        kept, faults = done.stdout.split()
        assert kept == str(bool(words))
        found[words] = int(faults)
    assert found[()] >= 64
    assert found[("keep",)] < 8
