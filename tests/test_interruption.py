"""kill -9 of a whole sweep, its workers included, at one or three moments of a training: nothing that counts changes."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from command_line import SCRIPT, clean_environment, descendants, in_this_process

from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import load_plans

pytestmark = pytest.mark.usefixtures("unrendered")

SWEEP = ("sweep", "sampling_steps", "scale=tiny", "sampler.num_steps=1")
"""Its jobs are among those that made the store of all tests, where nobody was killed: 12 updates, a checkpoint after each fourth."""


def lines(folder: Path) -> int:
    files = list(folder.glob("outputs/train_world_model/*/metrics.jsonl"))
    return len(files[0].read_text().splitlines()) if files else 0


def kill_when(folder: Path, updates: int) -> None:
    """Starts the sweep, and kills it and all its descendants when its training has logged that many updates."""
    sweep = subprocess.Popen(
        [SCRIPT, *SWEEP], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment(), start_new_session=True
    )
    while lines(folder) < updates:
        assert sweep.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.01)
    doomed = [sweep.pid, *descendants(sweep.pid)]
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    sweep.wait()


def numbers(root: Path, refs: Iterable[JobRef]) -> dict[str, object]:
    """Everything of some jobs of a store that must be the same on every run."""
    store = Store(root)
    found: dict[str, object] = {}
    for ref in refs:
        found[str(ref)] = [row for row in store.result(ref).rows if not row["measured"]]
        for file in (*store.folder(ref).glob("models/*/model.safetensors"), *store.folder(ref).glob("arrays.npz")):
            found[f"{ref} {file.name} {file.parent.name}"] = file.read_bytes()
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [(9,), pytest.param((2, 5, 9), marks=pytest.mark.slow)])  # before any checkpoint, after one, after two
def test_a_sweep_killed_in_its_training_ends_with_the_same_numbers(kills: tuple[int, ...], tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store / "collect_dataset", tmp_path / "outputs" / "collect_dataset")  # the sweep finds it done
    for updates in kills:
        kill_when(tmp_path, updates)
    done = in_this_process(*SWEEP, cwd=tmp_path)
    assert "resumed after update 8" in done.stderr
    (plan,) = load_plans(tmp_path / "outputs")
    whole, killed = (numbers(root, plan.jobs) for root in (tiny_store, tmp_path / "outputs"))
    assert len(plan.jobs) == 3
    assert sum(key.endswith("model.safetensors 1") for key in whole) == 1
    assert killed == whole
