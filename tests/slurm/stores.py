"""Stores of fake jobs, and the way from this process to a test cluster."""

import os
from pathlib import Path

import fake_jobs
import pytest
from cluster import Cluster

from diamond_bench.store.artifacts import Store

TESTS = Path(__file__).parents[1]


def use(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the commands of this process reach the cluster, and its nodes find the fake jobs."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.env[name])
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)


def make_store(folder: Path) -> Store:
    """A store of fake jobs."""
    return Store(folder / "outputs", kinds=fake_jobs.KINDS, say=lambda text: None)


def hold_up_once(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, where: str = "True") -> Path:
    """Holds up the first python to start, of a task for which `where` is true, as a slow file server would. The file that is gone then."""
    slow = folder / "slow"
    slow.mkdir()
    (slow / "once").touch()
    (slow / "sitecustomize.py").write_text(
        f"import os, time\n"
        f"if {where}:\n"
        f"    try:\n        os.unlink({str(slow / 'once')!r})\n"
        f"    except FileNotFoundError:\n        pass\n"
        f"    else:\n        time.sleep({seconds})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(slow), prepend=os.pathsep)
    return slow / "once"
