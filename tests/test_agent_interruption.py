"""A smoke agent killed ten times at random moments ends as an undisturbed one (slow: about ten minutes on two cores)."""

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
from command_line import SCRIPT, clean_environment, diamond_bench
from safetensors.torch import load_file

KILLS = 10
TRAIN = ("train", "game=Breakout", "seed=0", "scale=smoke")


def job(folder: Path, kind: str) -> Path:
    (found,) = (path for path in (folder / "outputs" / kind).iterdir() if ".damaged" not in path.name)
    return found


def killed_after(folder: Path, seconds: float) -> bool:
    """Starts the command and kills it, with all its processes, after so long; false where it had ended before."""
    command = subprocess.Popen(
        [SCRIPT, *TRAIN], cwd=folder, env=clean_environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        command.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()
        return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_ten_times_an_agent_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    started = time.monotonic()
    diamond_bench(*TRAIN, cwd=tmp_path / "whole")
    took = time.monotonic() - started
    dice, kills = random.Random(0), 0
    while kills < KILLS and killed_after(tmp_path / "killed", dice.uniform(0.05, 0.25) * took):
        kills += 1
    diamond_bench(*TRAIN, cwd=tmp_path / "killed")
    print(f"killed {kills} times; undisturbed in {took:.0f} s")
    assert kills >= 3, "the run was over before it could be killed often enough"
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
