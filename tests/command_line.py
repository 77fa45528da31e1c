"""The real console script, run as a user would."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import forked

ROOT = Path(__file__).parents[1]
SCRIPT = Path(sys.executable).with_name("diamond-bench")
"""That of the environment the tests run in: an editable install of the checkout."""
PROFILE = ("profile", "scale=tiny", "env.frame_size=16", "actor_critic.channels=[8]", "actor_critic.down=[true]", "execution.num_threads=1")
"""The small profile that all tests share."""
_OURS = ("PYTHONPATH", "DIAMOND_BENCH_OUTPUTS", "MINARI_DATASETS_PATH", "DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
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


def in_this_process(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, exit_code: int = 0
) -> subprocess.CompletedProcess[str]:
    """As `diamond_bench`, without a process of its own: for what a command says and does, where torch is here already.

    Its workers are processes, forked from one that has imported torch (forked.py).
    """
    from diamond_bench.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(patch.dict(os.environ, {**clean_environment(), **(env or {})}, clear=True))
        stack.enter_context(patch.object(sys, "argv", ["diamond-bench", *arguments]))
        stack.enter_context(patch("diamond_bench.launch.process.subprocess", forked.PROCESSES))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    done = subprocess.CompletedProcess(["diamond-bench", *arguments], code, out.getvalue(), err.getvalue())
    assert code == exit_code, f"diamond-bench {' '.join(arguments)}: exit code {code}\n{done.stdout}\n{done.stderr}"
    return done


def descendants(pid: int) -> list[int]:
    """All processes that a process started, theirs included."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]
