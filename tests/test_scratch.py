"""Datasets copied to a node's own disk: whole, once, and where there is none, not at all."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import fake_jobs
import pytest
from fake_jobs import Count

from diamond_bench.launch.interrupts import Interrupts
from diamond_bench.launch.local import run_local
from diamond_bench.launch.scratch import on_node
from diamond_bench.launch.slurm.task import _run
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.kinds import Kind

KINDS = {"collect_dataset": Kind(Count, "fake_jobs:run", 1), "add": fake_jobs.KINDS["add"]}
"""For the workers too: a counting job in place of a dataset."""
DATASET = JobSpec("collect_dataset", Count("data"), {}, revision=1)
BATCH = Batch("name", "fake/add", "fake", "add", ((),), 60, 120, 0, 0.0, device="cpu", kinds="test_scratch:KINDS")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with a finished dataset."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    built = Store(tmp_path / "outputs", kinds=KINDS, say=lambda text: None)
    run_local(built, [DATASET], num_workers=1, device="cpu", worker_arguments=("--kinds", BATCH.kinds))
    return built


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copied(store: Store, scratch: Path) -> Path:
    """The copy, seen to be of everything that the dataset's job wrote, and to be alone."""
    said: list[str] = []
    copy = on_node(store, DATASET.ref, scratch, said.append)
    assert said == []
    assert copy.is_relative_to(scratch)
    wanted = set(store.result(DATASET.ref).files)
    assert wanted == {"total", "media/text.txt"}
    assert contents(copy) == {name: (store.folder(DATASET.ref) / name).read_bytes() for name in wanted}
    assert list(copy.parent.iterdir()) == [copy]
    return copy


def test_of_two_copiers_at_once_the_first_s_copy_stays(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one copies, another finds nothing yet, copies too, is done first, and has its copy in use."""
    first: list[tuple[Path, int]] = []
    plain = shutil.copyfile

    def slowly(source: Path, target: Path) -> None:
        monkeypatch.setattr(shutil, "copyfile", plain)
        neighbour = on_node(store, DATASET.ref, tmp_path / "disk", print)
        first.append((neighbour, neighbour.stat().st_ino))
        plain(source, target)

    monkeypatch.setattr(shutil, "copyfile", slowly)
    copy = copied(store, tmp_path / "disk")
    assert [(copy, copy.stat().st_ino)] == first
    assert copied(store, tmp_path / "disk").stat().st_ino == first[0][1]  # and those that come later read it too


@pytest.mark.parametrize("left", ["total", "media/text.txt"])
def test_a_half_copy_is_replaced(left: str, store: Store, tmp_path: Path) -> None:
    """One file is there as far as it came, the other not at all."""
    copy = copied(store, tmp_path / "disk")
    for name in contents(copy):
        (copy / name).unlink()
    (copy / left).write_text("")
    assert copied(store, tmp_path / "disk") == copy


def test_a_disk_that_takes_nothing_leaves_the_store_s_own(store: Store, tmp_path: Path) -> None:
    (tmp_path / "disk").write_text("no folder")
    said: list[str] = []
    assert on_node(store, DATASET.ref, tmp_path / "disk", said.append) == store.folder(DATASET.ref)
    (line,) = said
    assert f"{DATASET.ref} is read from the store: it could not be copied to {tmp_path / 'disk'}" in line


@pytest.mark.parametrize("given", [True, False])
def test_a_variable_that_a_node_does_not_set_means_no_scratch(
    given: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The copy is given another total than the store's own, so that what a job read shows in its result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    (copied(store, tmp_path / "disk") / "total").write_text("9")
    before = {path.name for path in tmp_path.iterdir()}
    job = JobSpec("add", Count("after"), {"left": DATASET.ref}, revision=1)
    store.prepare(job)
    scratch = "$NODE_DISK" if given else "$NOT_SET_ON_THIS_NODE/disk"
    summary = _run(store, replace(BATCH, scratch=scratch), [job.ref], Interrupts())  # type: ignore[arg-type]
    assert summary.done == (job.ref,)
    assert store.result(job.ref).rows[0]["value"] == (12 if given else 6)
    line = f"cluster.scratch={scratch} is not set on this node: datasets are read from the store"
    assert (line in capfd.readouterr().out) is not given
    assert {path.name for path in tmp_path.iterdir()} == before
