"""The real console script, run as a user would."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = Path(sys.executable).with_name("diamond-bench")
"""That of the environment the tests run in: an editable install of the checkout."""
_OURS = ("PYTHONPATH", "DIAMOND_BENCH_OUTPUTS", "MINARI_DATASETS_PATH")
"""Variables of the one who runs the tests that would change what a command does."""


def clean_environment() -> dict[str, str]:
    """The environment without what would change a command's meaning."""
    return {name: value for name, value in os.environ.items() if name not in _OURS}


def diamond_bench(
    *arguments: str, cwd: Path, script: Path = SCRIPT, env: Mapping[str, str] | None = None, exit_code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs `diamond-bench ARGUMENTS` in a folder, adding `env` to the environment; fails, showing its output, at another exit code."""
    done = subprocess.run([script, *arguments], capture_output=True, text=True, cwd=cwd, env={**clean_environment(), **(env or {})})
    assert done.returncode == exit_code, f"diamond-bench {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def descendants(pid: int) -> list[int]:
    """All processes that a process started, theirs included."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]
