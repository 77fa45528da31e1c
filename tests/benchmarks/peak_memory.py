"""The memory that a command and all its processes hold at most, shared pages counted once (the sum of their PSS, looked at twice a second).

python tests/benchmarks/peak_memory.py diamond-bench sweep sampling_steps scale=smoke
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def family(pid: int) -> Iterator[int]:
    """The process and all that descend from it."""
    yield pid
    try:
        children = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    except OSError:
        return
    for child in children:
        yield from family(child)


def held(pid: int) -> int:
    """Bytes that belong to the process alone, and its share of those that others use too; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main(command: list[str]) -> int:
    """Runs it, and prints what was found to stderr. Its exit code."""
    process, most = subprocess.Popen(command), 0
    while process.poll() is None:
        most = max(most, sum(map(held, family(process.pid))))
        time.sleep(0.5)
    print(f"{most / 1e9:.2f} GB at most", file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
