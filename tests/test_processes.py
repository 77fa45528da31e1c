"""Several processes that train one world model: the numbers of one process, stops, deaths, and refusals."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from safetensors.torch import load_file
from test_sources import CONFIG, DISCRETE, TRAINING, make_dataset

from diamond_bench.cli.common import refuse_copies, run_jobs
from diamond_bench.cli.running import submit_plan
from diamond_bench.config import ExecutionConfig
from diamond_bench.errors import UserError
from diamond_bench.jobs import peers, train_world_model
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.hosts import NODES
from diamond_bench.jobs.train_world_model import model_folder
from diamond_bench.launch import devices
from diamond_bench.store.artifacts import Store
from diamond_bench.store.kinds import KINDS
from diamond_bench.studies.plan import plan_study
from diamond_bench.training.processes import have_come, meeting_point
from diamond_bench.typed import to_plain

STEPS = 4


@pytest.fixture(autouse=True)
def forked_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers are forked from a process that has imported torch, as workers are."""
    monkeypatch.setattr(peers, "subprocess", forked.PROCESSES)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", DISCRETE)


def train(
    folder: Path, dataset: Path, processes: int, accumulation: int = 2, should_stop: Callable[[], bool] = lambda: False
) -> dict[str, torch.Tensor]:
    """The weights after a training, or after its resume if the folder has a checkpoint."""
    folder.mkdir(exist_ok=True)
    training = replace(TRAINING, num_steps=STEPS, accumulation=accumulation, ema=0.5)
    config = replace(CONFIG, training=training, execution=ExecutionConfig(num_processes=processes, num_threads=1))
    train_world_model.run(config, JobContext(folder, {"dataset": dataset}, should_stop=should_stop, say=lambda text: None))
    return load_file(model_folder(folder, 1.0) / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_train_the_weights_of_one_over_a_stop_and_a_death(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum of two gradients has no order, so the weights are equal bit for bit."""
    started = []
    real = peers.subprocess.Popen
    monkeypatch.setattr(forked.PROCESSES, "Popen", lambda *args, **options: started.append(real(*args, **options)) or started[-1])
    boundaries = itertools.count(1)
    with pytest.raises(Interrupted, match="after update 2 of 4"):
        train(tmp_path / "two", dataset, 2, should_stop=lambda: next(boundaries) == 2)
    assert [process.returncode for process in started] == [0]

    def kill() -> bool:
        os.kill(started[-1].pid, signal.SIGKILL)
        return False

    with pytest.raises(RuntimeError, match=r"process 1 of the training ended \(exit code -9\)"):
        train(tmp_path / "two", dataset, 2, should_stop=kill)
    assert equal(train(tmp_path / "two", dataset, 2), train(tmp_path / "alone", dataset, 1))


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As in a SLURM job of the nodes a and b, on b. What `srun` would start on a starts here. Its words are listed."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\ntest "$*" = "show hostnames a,b" && printf "a\\nb\\n"\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in {NODES: "2", "SLURM_JOB_NODELIST": "a,b", "SLURMD_NODENAME": "b"}.items():
        monkeypatch.setenv(name, value)
    words: list[str] = []
    real = forked.PROCESSES.Popen

    def start(command: list[str], **options: Any) -> Any:
        here = command.index(sys.executable)
        words.extend(command[:here])
        return real(command[here:], **options)

    monkeypatch.setattr(forked.PROCESSES, "Popen", start)
    return words


def test_sums_of_more_gradients_agree_within_rounding_on_two_nodes(tmp_path: Path, dataset: Path, two_nodes: list[str]) -> None:
    """The first process stays where it is, on b, and the second is a step on a."""
    with pytest.raises(UserError, match=r"execution\.num_processes=3: the 2 nodes of this SLURM job cannot share them equally"):
        train(tmp_path / "three", dataset, 3, accumulation=3)
    assert not two_nodes
    one, two = (train(tmp_path / str(number), dataset, number, accumulation=4) for number in (1, 2))
    assert two_nodes == ["srun", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=a"]
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-6)


def test_a_process_ends_when_the_first_one_dies(dataset: Path) -> None:
    """Its stdin ends then. Here it waits for the first process to join the group, which would take half an hour."""
    point = meeting_point(2)
    what = {"config": to_plain(CONFIG), "dataset": str(dataset), "device": "cpu", "rank": 1, "size": 2}
    what |= {"host": "127.0.0.1", "port": point.port}
    process = forked.PROCESSES.Popen([sys.executable, "-P", "-m", "diamond_bench.jobs.peer"], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    print(json.dumps(what), file=process.stdin, flush=True)
    while not have_come(point, 2):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)
    assert process.poll() is None, "it waits"
    process.stdin.close()
    assert process.wait(20) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["execution.num_processes=3", "training.accumulation=4"], "use training.accumulation=6, or a number of processes that divides 4"),
        (["execution.num_processes=2"], "use training.accumulation=2"),
        (["training.accumulation=2", "execution.cuda_graphs=all"], "not recorded"),
    ],
)
def test_impossible_shares_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_study("sampling_steps", ["scale=tiny", *overrides])


def test_an_agent_has_one_process() -> None:
    with pytest.raises(UserError, match=r"execution\.num_processes=2: an agent is trained by one process"):
        plan_study("atari_100k", ["scale=tiny", "execution.num_processes=2"])


def test_several_copies_of_a_command_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies would run the same jobs at once, and each training would still have one process."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuse_copies()  # whoever set it, torchrun did not
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match=r"torchrun started 2 copies .* execution\.num_processes=2"):
        refuse_copies()
    plan, store = plan_study("sampling_steps", ["scale=tiny"]), Store(tmp_path / "store")
    for run in (lambda: run_jobs(plan, store), lambda: submit_plan(plan, store, as_json=False, wait=False, with_report=False)):
        with pytest.raises(UserError, match="torchrun started 2 copies"):
            run()
    assert not store.root.exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    refuse_copies()


def test_only_trainings_have_the_number_of_processes_in_their_identity() -> None:
    one, two = (plan_study("sampling_steps", ["scale=tiny", "training.accumulation=2", f"execution.num_processes={n}"]) for n in (1, 2))
    moved = [(a, b) for a, b in zip(one.jobs, two.jobs, strict=True) if a != b]
    assert {ref.kind for ref, _ in moved} == {"train_world_model", "evaluate_world_model"}
    evaluations = [(one.jobs[a].config, two.jobs[b].config) for a, b in moved if a.kind == "evaluate_world_model"]
    assert all(ours == theirs for ours, theirs in evaluations), "only their input differs"


def test_a_job_of_several_gpus_takes_those_after_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    assert devices.worker_devices("auto", 0, 2) == ["cuda:0", "cuda:2"]
    assert devices.worker_devices("auto", 3, 2) == ["cuda:0", "cuda:2", "cuda:0"]
    assert devices.worker_devices("auto", 0) == [f"cuda:{number}" for number in range(5)]
    with pytest.raises(UserError, match=r"execution\.num_processes=6: this machine has 5 GPUs"):
        devices.worker_devices("auto", 0, 6)
    assert devices.worker_devices("cuda:3", 1, 2) == ["cuda:3"]
    with pytest.raises(UserError, match=r"num_processes=3: .* 5 GPUs, and execution\.device=cuda:3 .*; use at most 2"):
        devices.worker_devices("cuda:3", 1, 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert peers._gpus(2, 3, 2) == ["cuda:3", "cuda:4"]
    with pytest.raises(UserError, match=r"num_processes=3: .* 5 GPUs, and execution\.device=cuda:3 .*; use at most 2"):
        peers._gpus(3, 3, 3)
    assert devices.worker_devices("cpu", 1, 6) == ["cpu"]
    monkeypatch.setenv(NODES, "2")
    assert devices.worker_devices("auto", 1, 6) == ["cuda:0"], "three of them on each node"
    with pytest.raises(UserError, match=r"num_processes=12: the 2 nodes of this SLURM job have 5 GPUs each; use at most 10"):
        devices.worker_devices("auto", 1, 12)
    monkeypatch.setenv(NODES, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match=r"num_processes=2: this machine has 1 GPU; use at most 1"):
        devices.worker_devices("auto", 1, 2)
    config = replace(CONFIG, execution=ExecutionConfig(num_processes=2))
    assert KINDS["train_world_model"].costs.gpus(config) == 2
