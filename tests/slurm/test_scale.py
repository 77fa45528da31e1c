"""Thousands of jobs on a real controller: submitted in under a minute, shown in under five seconds, submitted once, taken back.

The jobs are held, so none of them runs: what is measured is planning, the store, submitit and SLURM.
"""

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster import Cluster
from command_line import diamond_bench

from diamond_bench.launch.slurm.client import array_limit
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch, read_batches
from diamond_bench.store.jobspec import JobRef

SEEDS = 1010
"""More trainings than an array may have elements (MaxArraySize), so that each wave is cut."""
JOBS = 1 + SEEDS + 5 * SEEDS
"""One dataset, a training a seed, evaluations with five numbers of denoising steps."""
MAX_SUBMISSION_SECONDS = 60.0
MAX_STATUS_SECONDS = 5.0


def waits_for(cluster: Cluster) -> dict[str, str]:
    """What each task in SLURM's queue waits for, in SLURM's words (`afterok:2(unfulfilled)`)."""
    shown = cluster.run("squeue", "--noheader", "--array", "--Format=JobArrayID:|,Dependency:|")
    return {line.split("|")[0].strip(): line.split("|")[1].strip() for line in shown.splitlines()}


def expected_wait(where: dict[JobRef, tuple[Batch, int]], needed: set[JobRef], element: int) -> set[str]:
    """The forms in which SLURM may say that element `element` of an array waits for tasks of the needed jobs."""
    reported = set()
    for ref in needed:
        batch, position = where[ref]
        reported.add(f"afterok:{batch.address(position)}")
        if position == element and len(batch.tasks) > 1:
            reported.add(f"aftercorr:{batch.array}_*")
    return reported


@pytest.mark.timeout(600)
def test_thousands_of_jobs(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "held.yaml"
    profile.write_text("{name: slurm, gpus: 0, cpus: 1, memory: 1G, extra: [hold]}\n")
    own = {**cluster.env, "DIAMOND_BENCH_OUTPUTS": str(tmp_path / "outputs")}
    command = ("sweep", "sampling_steps", "scale=tiny", f"cluster={profile}", f"seeds={SEEDS}")
    seconds: dict[str, float] = {}

    def timed(what: str, *words: str) -> str:
        began = time.monotonic()
        done = diamond_bench(*words, cwd=tmp_path, env=own)
        seconds[what] = time.monotonic() - began
        return done.stdout + done.stderr

    said = timed("sweep", *command)
    assert f"submitted {JOBS:,} jobs in 13 arrays" in said
    waits = waits_for(cluster)
    assert len(waits) == JOBS
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.env[name])
    assert array_limit() == 1001

    store = Store(tmp_path / "outputs")
    batches = read_batches(store.root)
    assert sorted(len(batch.tasks) for batch in batches) == sorted([1, 1001, 9, *[1001] * 5, *[9] * 5])
    where = {ref: (batch, element) for batch in batches for element, task in enumerate(batch.tasks) for ref in task}
    assert len(where) == JOBS
    assert Counter(ref.kind for ref in where) == {"collect_dataset": 1, "train_world_model": SEEDS, "evaluate_world_model": 5 * SEEDS}
    for batch in batches:
        for element in {*range(3), *range(0, len(batch.tasks), 100), len(batch.tasks) - 1} & set(range(len(batch.tasks))):
            (ref,) = batch.tasks[element]
            needed = set(store.spec(ref).inputs.values())
            reported = {re.sub(r"\(.*?\)$", "", part) for part in waits[batch.address(element)].split(",")} - {"", "null"}
            last = {need for need in needed if need.kind == "train_world_model"} or needed  # which waits for the dataset itself
            assert (not reported and not last) or reported & expected_wait(where, last, element), (
                f"{batch.address(element)} waits for {reported}"
            )

    assert "6061 pending" in timed("status", "status", "sampling_steps")
    shown = json.loads(timed("status --json", "status", "sampling_steps", "--json").partition("\n")[0])
    assert shown[0]["counts"] == {"pending": JOBS}
    assert shown[0]["waiting"] == {"JobHeldUser": JOBS}

    assert f"nothing to submit: 0 jobs are done, {JOBS} are in the queue" in timed("sweep again", *command)
    assert set(waits_for(cluster)) == set(waits)
    assert len(read_batches(store.root)) == len(batches)

    assert f"Cancelled {JOBS:,} jobs" in timed("cancel", "cancel", "sampling_steps")
    assert not waits_for(cluster)
    shown = json.loads(timed("status, cancelled", "status", "sampling_steps", "--json").partition("\n")[0])
    assert shown[0]["counts"] == {"cancelled": JOBS}

    with capsys.disabled():
        print(f"\n{JOBS} jobs: " + ", ".join(f"{what} {took:.1f} s" for what, took in seconds.items()))
    assert seconds["sweep"] < MAX_SUBMISSION_SECONDS
    assert max(took for what, took in seconds.items() if what.startswith("status")) < MAX_STATUS_SECONDS
