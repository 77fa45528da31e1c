"""The real console script, run as a user would."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SCRIPT = Path(sys.executable).with_name("diamond-bench")
_OURS = ("PYTHONPATH", "DIAMOND_BENCH_OUTPUTS")
"""Variables of the one who runs the tests, that would change what a command does."""


def diamond_bench(
    *arguments: str, cwd: Path, script: Path = SCRIPT, env: Mapping[str, str] | None = None, exit_code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs `diamond-bench ARGUMENTS` in a folder, adding `env` to the environment; fails, showing its output, at another exit code."""
    clean = {name: value for name, value in os.environ.items() if name not in _OURS}
    done = subprocess.run([script, *arguments], capture_output=True, text=True, cwd=cwd, env={**clean, **(env or {})}, timeout=280)
    assert done.returncode == exit_code, f"diamond-bench {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
