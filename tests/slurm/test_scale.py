"""A hundred jobs on a real controller, with `-m slow` thousands: submitted in a minute, shown in seconds, submitted once, taken back.

The jobs are held, so none of them runs: what is measured is planning, the store, submitit and SLURM.
"""

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster import Cluster
from command_line import diamond_bench, in_this_process

from diamond_bench.launch.slurm.client import array_limit
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch, read_batches
from diamond_bench.store.jobspec import JobRef

SIZES = [pytest.param(11, id="tens"), *(pytest.param(size, marks=pytest.mark.slow) for size in (101, 1001))]
"""Elements that an array may have (MaxArraySize)."""
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


@pytest.mark.usefixtures("slurm_installed")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", SIZES)
def test_a_study_of_more_jobs_than_an_array_may_have(
    size: int, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("scale")
    with Cluster(folder / "slurm", max_array_size=size) as cluster:
        submit_show_and_cancel(cluster, size, folder, capsys, monkeypatch)


def submit_show_and_cancel(
    cluster: Cluster, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More trainings than an array may have elements, so that each wave is cut."""
    num_seeds = size + 9
    num_jobs = 1 + num_seeds + 5 * num_seeds  # one dataset, a training per seed, evaluations with five numbers of denoising steps
    profile = tmp_path / "held.yaml"
    profile.write_text("{name: slurm, gpus: 0, cpus: 1, memory: 1G, extra: [hold]}\n")
    own = {**cluster.env, "DIAMOND_BENCH_OUTPUTS": str(tmp_path / "outputs")}
    command = ("sweep", "sampling_steps", "scale=tiny", f"cluster={profile}", f"seeds={num_seeds}")
    seconds: dict[str, float] = {}

    def timed(what: str, *words: str) -> str:
        began = time.monotonic()
        done = (diamond_bench if what == "sweep" else in_this_process)(*words, cwd=tmp_path, env=own)
        seconds[what] = time.monotonic() - began
        return done.stdout + done.stderr

    def counts(what: str) -> dict[str, int]:
        (study,) = json.loads(timed(what, "status", "sampling_steps", "--json").partition("\n")[0])
        return dict(study["counts"])

    said = timed("sweep", *command)
    assert f"submitted {num_jobs:,} jobs in 13 arrays" in said
    waits = waits_for(cluster)
    assert len(waits) == num_jobs
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.env[name])
    assert array_limit() == size

    store = Store(tmp_path / "outputs")
    batches = read_batches(store.root)
    assert sorted(len(batch.tasks) for batch in batches) == sorted([1, size, 9, *[size] * 5, *[9] * 5])
    where = {ref: (batch, element) for batch in batches for element, task in enumerate(batch.tasks) for ref in task}
    assert len(where) == num_jobs
    assert Counter(ref.kind for ref in where) == {
        "collect_dataset": 1,
        "train_world_model": num_seeds,
        "evaluate_world_model": 5 * num_seeds,
    }
    for batch in batches:
        for element in {*range(3), *range(0, len(batch.tasks), 100), len(batch.tasks) - 1} & set(range(len(batch.tasks))):
            (ref,) = batch.tasks[element]
            needed = set(store.spec(ref).inputs.values())
            reported = {re.sub(r"\(.*?\)$", "", part) for part in waits[batch.address(element)].split(",")} - {"", "null"}
            last = {need for need in needed if need.kind == "train_world_model"} or needed  # which waits for the dataset itself
            assert (not reported and not last) or reported & expected_wait(where, last, element), (
                f"{batch.address(element)} waits for {reported}"
            )

    assert f"{num_jobs} pending" in timed("status", "status", "sampling_steps")
    shown = json.loads(timed("status --json", "status", "sampling_steps", "--json").partition("\n")[0])
    assert shown[0]["counts"] == {"pending": num_jobs}
    assert shown[0]["waiting"] == {"JobHeldUser": num_jobs}

    assert f"nothing to submit: 0 jobs are done, {num_jobs} are in the queue" in timed("sweep again", *command)
    assert set(waits_for(cluster)) == set(waits)
    assert len(read_batches(store.root)) == len(batches)

    assert f"Cancelled {num_seeds:,} jobs." in timed("cancel a variant", "cancel", "sampling_steps", "--variant", "n=10")
    assert counts("status, a variant cancelled") == {"cancelled": num_seeds, "pending": num_jobs - num_seeds}
    in_this_process("cancel", "sampling_steps", "--variant", "n=11", cwd=tmp_path, env=own, exit_code=2)
    if size < 100:  # each of these jobs becomes an array of its own, since it waits for another array's task
        assert f"submitted {num_seeds} jobs in {num_seeds} arrays" in timed("retry", "retry", "sampling_steps")
        assert counts("status, retried") == {"pending": num_jobs}

    left = num_jobs if size < 100 else num_jobs - num_seeds
    assert f"Cancelled {left:,} jobs." in timed("cancel", "cancel", "sampling_steps")
    assert not waits_for(cluster)
    assert counts("status, cancelled") == {"cancelled": num_jobs}

    with capsys.disabled():
        print(f"\n{num_jobs} jobs: " + ", ".join(f"{what} {took:.1f} s" for what, took in seconds.items()))
    assert seconds["sweep"] < MAX_SUBMISSION_SECONDS
    assert max(took for what, took in seconds.items() if what.startswith("status")) < MAX_STATUS_SECONDS
