"""Lint, format and types of the code, and the documentation's site with its links.

Each check is a process of its own, and other tests run meanwhile. A tool that is not installed fails its test.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT

FOLDER = "FOLDER"
"""Stands for a new folder."""
CHECKS = {
    "types": ("mypy", "--cache-dir", os.devnull),  # a cache of an earlier run could hide an error
    "site": ("mkdocs", "build", "--strict", "--quiet", "--site-dir", FOLDER),
    "lint": ("ruff", "check", "--no-cache", "."),
    "format": ("ruff", "format", "--no-cache", "--check", "."),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHECKS)
def test_the_checkout_passes(name: str, tmp_path: Path) -> None:
    words = [str(tmp_path / "built") if word == FOLDER else word for word in CHECKS[name]]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
