"""A training of two processes on a real SLURM: it survives the death of either, and the signal of a preemption, with the numbers of one
process."""

import os
import signal
import time
from pathlib import Path

import pytest
from cluster import Cluster
from command_line import diamond_bench
from safetensors.torch import load_file

from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef

STUDY = ("sampling_steps", "scale=tiny", "games=[synthetic/turn]", "seeds=1", "sampler.num_steps=1", "metrics=[drift]")
TRAINING = ("training.accumulation=2", "training.num_steps=300", "training.checkpoint_every=20")
SLURM = ("cluster=slurm", "cluster.partition=main", "cluster.gpus=0", "cluster.cpus=2", "cluster.memory=3G", "cluster.signal_seconds=20")


def processes_of(store: Path, module: str) -> list[int]:
    """The processes that run a module for a store: workers of this store, or their children."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            above = Path(f"/proc/{parent}/cmdline").read_bytes()
        except OSError:
            continue
        if module.encode() in words and (str(store).encode() in b" ".join(words) or str(store).encode() in above):
            found.append(int(place.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_survive_on_slurm(cluster: Cluster, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    own = {"DIAMOND_BENCH_OUTPUTS": str(outputs), **cluster.env}

    def sweep(processes: int, *more: str) -> str:
        done = diamond_bench("sweep", *STUDY, *TRAINING, f"execution.num_processes={processes}", *more, cwd=tmp_path, env=own)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    sweep(1)
    (alone,) = (outputs / "train_world_model").iterdir()
    store = Store(outputs, say=lambda text: None)

    def training() -> JobRef:
        return next(ref for ref in store.refs() if ref.kind == "train_world_model" and ref.id != alone.name)

    def until(wanted: str, done: int = 0) -> None:
        end = time.monotonic() + 120
        while (state := store.state(training())).status != wanted or state.done < done:
            assert time.monotonic() < end, state
            time.sleep(0.2)

    sweep(2, *SLURM)
    for number, module in enumerate(("diamond_bench.jobs.peer", "diamond_bench.launch.worker"), start=1):
        until("running", 40 * number)
        (victim,) = processes_of(outputs, module)
        os.kill(victim, signal.SIGKILL)
        until("failed")
        sweep(2, *SLURM)
    until("running", 100)
    cluster.run("scancel", "--signal=USR2", cluster.run("squeue", "--noheader", "--states=running", "--format=%i"))
    until("preempted")
    sweep(2, *SLURM, "--wait")
    until("done")
    one, two = (load_file(outputs / "train_world_model" / id / "models/1/model.safetensors") for id in (alone.name, training().id))
    assert one.keys() == two.keys()
    assert all(bool((one[name] == two[name]).all()) for name in one)
    assert not processes_of(outputs, "diamond_bench.jobs.peer")
