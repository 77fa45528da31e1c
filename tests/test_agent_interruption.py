"""A smoke agent killed ten times at random moments ends as an undisturbed one (slow: about ten minutes on two cores)."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SCRIPT, clean_environment, descendants, diamond_bench
from safetensors.torch import load_file

KILLS = 10
TRAIN = ("train", "game=Breakout", "seed=0", "scale=smoke", "agent.checkpoint_units=25")


def job(folder: Path, kind: str) -> Path:
    (found,) = (path for path in (folder / "outputs" / kind).iterdir() if ".damaged" not in path.name)
    return found


def newest(folder: Path) -> str:
    """The name of the newest checkpoint, which begins with how much was done."""
    return max((path.name for path in folder.glob("outputs/train_agent/*/checkpoint/step-*.pt")), default="")


def killed_after_a_checkpoint(folder: Path, pause: float) -> bool:
    """Starts the command; when it has saved anew and so many seconds more went by, kills it with all its processes. False where it
    ended before."""
    before = newest(folder)
    command = subprocess.Popen(
        [SCRIPT, *TRAIN], cwd=folder, env=clean_environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while newest(folder) <= before and command.poll() is None:
        time.sleep(0.05)
    try:
        command.wait(pause)
    except subprocess.TimeoutExpired:
        for pid in [command.pid, *descendants(command.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        command.wait()
        return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_ten_times_an_agent_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    diamond_bench(*TRAIN, cwd=tmp_path / "whole")
    dice = random.Random(0)
    for _ in range(KILLS):
        assert killed_after_a_checkpoint(tmp_path / "killed", dice.uniform(0.0, 8.0)), "the run was over before its tenth kill"
    diamond_bench(*TRAIN, cwd=tmp_path / "killed")
    resumed = {
        line for line in (job(tmp_path / "killed", "train_agent") / "log.txt").read_text().splitlines() if line.startswith("resumed")
    }
    assert len(resumed) >= 5, resumed
    one, other = (job(tmp_path / name, "train_agent") for name in ("whole", "killed"))
    for file in sorted((one / "agent").rglob("*.safetensors")):
        a, b = load_file(file), load_file(other / file.relative_to(one))
        assert all(torch.equal(a[name], b[name]) for name in a), file.name
    for kind in ("train_agent", "evaluate_agent"):
        folders = [job(tmp_path / name, kind) for name in ("whole", "killed")]
        results = [json.loads((folder / "result.json").read_text()) for folder in folders]
        rows = [[row for row in result["rows"] if not row["measured"]] for result in results]
        assert rows[0] == rows[1]
        arrays = [np.load(folder / "arrays.npz") for folder in folders]
        assert arrays[0].files == arrays[1].files
        assert all(np.array_equal(arrays[0][name], arrays[1][name], equal_nan=True) for name in arrays[0].files)
    steps = [json.loads((folder / "result.json").read_text())["info"]["real_steps"] for folder in (one, other)]
    assert steps == [1500, 1500]
