"""At least a thousand hostile inputs to every command and file: no traceback, no hang, no accepted lie, nothing else touched.

    pytest -m soak -s                                            # the counts by class
    SOAK="checkpoints 17" pytest -m soak -s                      # one input again

The inputs come from a generator whose seed is the class and the number, so each can be repeated.
"""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soak_classes as classes
import soak_foreign as foreign
import soak_user as user
from shared_folders import listing
from soak_classes import Template
from soak_run import Case, Report, run_case, run_command, table, workspace

from diamond_bench.metrics.weights import folder as weights_folder
from diamond_bench.store.batches import Batch, write_batch
from diamond_bench.store.jobspec import JobRef

CLASSES: dict[str, tuple[Callable[[Case, Template], None], int]] = {
    "command line": (user.arguments, 300),
    "environment": (user.environment, 40),
    "study files": (user.study_file, 150),
    "cluster profiles": (user.cluster_profile, 60),
    "score files": (user.score_file, 50),
    "checkpoints": (foreign.checkpoint, 70),
    "datasets": (foreign.dataset, 60),
    "agents": (foreign.agent, 40),
    "JSON of the store": (classes.store_json, 150),
    "SLURM records and claims": (classes.batches, 40),
    "damaged files": (classes.store_bytes, 100),
    "links, FIFOs, folders": (classes.store_kind, 100),
    "odd names": (classes.odd_name, 40),
    "edited values": (classes.edited, 100),
    "files of another job": (classes.swapped, 16),
    "other arrays and weights": (classes.changed_arrays, 12),
    "logs and errors": (classes.logs, 40),
}


@pytest.fixture(scope="module")
def template(tiny_store: Path, trained_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A store with a swept study, an agent, a record of SLURM, and their reports; and what commands say of it."""
    folder = tmp_path_factory.mktemp("soak")
    shutil.copytree(tiny_store, folder / "outputs")
    (folder / "empty").mkdir()
    environment = {"DIAMOND_BENCH_WEIGHTS": str(weights_folder()), "PATH": str(folder / "empty"), "HOME": str(folder / "home")}
    built = Template(folder / "outputs", environment=environment)
    done = run_command(["merge", str(trained_store)], folder, environment)
    assert (done.code, done.fault) == (0, ""), done.err
    ref = JobRef.parse(next(path for path in (folder / "outputs").glob("train_agent/*")).relative_to(folder / "outputs").as_posix())
    write_batch(folder / "outputs", Batch("batch", "label", classes.STUDY, ref.kind, ((ref,),), 10, 60, 1, 1.0, array="1"))
    built.learn(folder)
    return built


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_hostile_input_crashes_hangs_or_fools_a_command(template: Template, tmp_path: Path) -> None:
    report, before = Report(), listing(template.root)
    began, worked = time.monotonic(), time.process_time()
    chosen, _, number = os.environ.get("SOAK", "").rpartition(" ")
    share = float(os.environ.get("SOAK_SHARE", "1"))
    for kind, (fill, count) in CLASSES.items():
        started = time.monotonic()
        for index in range(round(count * share)):
            if chosen and (kind, str(index)) != (chosen, number) and (chosen, number) != (kind, "all"):
                continue
            folder = workspace(template.root, tmp_path / "work")
            case = Case(kind, index, folder, random.Random(f"{kind} {index}"), environment=dict(template.environment))
            fill(case, template)
            run_case(case, report)
        if report.inputs[kind]:
            print(
                f"{kind}: {report.inputs[kind]} inputs, {time.monotonic() - started:.0f} s, {dict(report.faults.get(kind, {}))}", flush=True
            )
    print("\n".join(report.messages))
    print(table(report))
    print(f"{report.inputs.total():,} inputs in {time.monotonic() - began:.0f} s, {time.process_time() - worked:.0f} s of one processor")
    assert listing(template.root) == before, "a command wrote through a hard link into the store that all inputs share"
    assert not report.faults
