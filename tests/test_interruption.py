"""kill -9 of a whole sweep, its workers included, at three moments of a training: nothing that counts changes."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import SCRIPT, clean_environment, descendants, diamond_bench

from diamond_bench.studies.plan import SavedPlan, load_plans
from diamond_bench.studies.store import Store

_TRAINING = ("training.num_steps=40", "training.checkpoint_every=5")
SWEEP = ("sweep", "sampling_steps", "scale=tiny", "sampler.num_steps=1,3", "metrics=[drift]", *_TRAINING)


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


def numbers(folder: Path) -> tuple[SavedPlan, dict[str, object]]:
    """Everything of a swept store that must be the same on every run."""
    (plan,) = load_plans(folder / "outputs")
    store = Store(folder / "outputs")
    found: dict[str, object] = {}
    for ref in plan.jobs:
        found[str(ref)] = [row for row in store.result(ref).rows if not row["measured"]]
        for file in (*store.folder(ref).glob("models/*/model.safetensors"), *store.folder(ref).glob("arrays.npz")):
            found[f"{ref} {file.name} {file.parent.name}"] = file.read_bytes()
    return plan, found


@pytest.mark.timeout(900)
def test_a_sweep_killed_three_times_in_its_training_ends_with_the_same_numbers(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    diamond_bench(*SWEEP, cwd=tmp_path / "whole")
    for updates in (3, 17, 32):
        kill_when(tmp_path / "killed", updates)
    done = diamond_bench(*SWEEP, cwd=tmp_path / "killed")
    assert "resumed after update 30" in done.stderr
    plan, whole = numbers(tmp_path / "whole")
    _, killed = numbers(tmp_path / "killed")
    assert len(plan.jobs) == 4
    assert sum(key.endswith("model.safetensors 1") for key in whole) == 1
    assert killed == whole
