"""Every file of a finished study damaged, one by one: none is believed, and each is named."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_jobs import count
from test_store import finished, make_store

from diamond_bench import api
from diamond_bench.errors import UserError
from diamond_bench.launch.local import run_local
from diamond_bench.report.drawing import stored_arrays
from diamond_bench.results.table import collect, save_results
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import DamagedFile, arrays_in, read_arrays
from diamond_bench.store.jobspec import JobRef
from diamond_bench.stored.models import require_whole
from diamond_bench.studies.plan import load_plans

OURS = ("log.txt", "state.json")
"""Files that say how it went. Without them the artifact is whole."""


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit in the middle: size and name stay. It turns a digit into a letter, since another last digit can be the same float."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def lose(path: Path) -> None:
    path.unlink()


def files_of(store: Store, ref: JobRef) -> list[str]:
    """The files of a job's artifact, with config.yaml and result.json."""
    folder = store.folder(ref)
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in found if name not in OURS and not name.startswith(("claim-", "checkpoint/", "frames.npy"))]


@pytest.fixture(params=["tiny_store", "trained_store"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A copy of a swept store, or of a store with an agent."""
    template = request.getfixturevalue(request.param)
    return Store(shutil.copytree(template, tmp_path / "outputs", ignore=shutil.ignore_patterns("compiled")), say=lambda text: None)


@pytest.mark.parametrize("harm", [cut, flip, lose])
def test_each_file_is_found_to_be_damaged(harm: Callable[[Path], None], damaged: Store) -> None:
    """A sweep looks at sizes, config and result. A job that reads an artifact, a merge and the API look at every byte."""
    kinds = {ref.kind: ref for ref in damaged.refs()}
    assert len(kinds) >= 2
    for ref in kinds.values():
        assert damaged.damage(ref, contents=True) == ""
        for name in files_of(damaged, ref):
            path = damaged.folder(ref) / name
            before, times = path.read_bytes(), path.stat()
            harm(path)
            found = damaged.damage(ref, contents=True)
            # The sweep writes a lost config again. Without a result it runs the job again.
            lost = harm is lose and name in ("config.yaml", "result.json")
            assert lost or str(path) in found, f"{path}: {harm.__name__} is not found"
            with pytest.raises(UserError):
                damaged.spec(ref) if name == "config.yaml" else require_whole(damaged, ref)
            path.write_bytes(before)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert damaged.damage(ref, contents=True) == ""


@pytest.mark.parametrize("harm", [cut, lose])
def test_damaged_curves_are_set_aside_by_the_report(harm: Callable[[Path], None], tiny_store: Path, tmp_path: Path) -> None:
    store = Store(shutil.copytree(tiny_store, tmp_path / "outputs"), say=lambda text: None)
    ref = next(ref for ref in store.refs() if ref.kind == "evaluate_world_model")
    harm(store.folder(ref) / "arrays.npz")
    with pytest.raises(DamagedFile, match=r"arrays.npz .* run the sweep again"):
        stored_arrays(store, ref, "arrays.npz", "drift")
    assert not store.folder(ref).exists()
    assert list(store.folder(ref).parent.glob(f"{ref.id}.damaged-*"))


def test_no_flipped_bit_changes_the_curves_that_a_report_draws(tiny_store: Path, tmp_path: Path) -> None:
    """It is met by the archive's own checksums, or lies where it changes nothing."""
    content = next(tiny_store.glob("evaluate_world_model/*/arrays.npz")).read_bytes()
    file = tmp_path / "arrays.npz"
    file.write_bytes(content)
    whole, found = read_arrays(file), 0
    for position in range(0, len(content), 37):
        bits = bytearray(content)
        bits[position] ^= 1
        file.write_bytes(bits)
        try:
            read = read_arrays(file)
        except ValueError:
            found += 1
            continue
        assert all(np.array_equal(read[name], whole[name], equal_nan=True) for name in whole), position
    assert found > 0.5 * len(content) / 37


@pytest.mark.parametrize("harm", [cut, flip, lose])
def test_a_damaged_table_is_written_again_and_never_read(harm: Callable[[Path], None], tiny_store: Path, tmp_path: Path) -> None:
    """results.parquet is for other programs: results and report come from the jobs."""
    store = Store(shutil.copytree(tiny_store, tmp_path / "outputs"), say=lambda text: None)
    (plan,) = load_plans(store.root)
    whole = save_results(collect(plan, store), plan.folder).read_bytes()
    harm(plan.folder / "results.parquet")
    table = api.results(plan.study, f"scale={plan.scale}", output_dir=store.root)
    assert len(table) == len(collect(plan, store)) > 0
    assert save_results(table, plan.folder).read_bytes() == whole


def test_a_lost_config_of_a_done_job_is_written_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "outputs")
    ref = finished(store, count("a"))
    (store.folder(ref) / "config.yaml").unlink()
    assert run_local(store, [count("a")], device="cpu").skipped == (ref,)
    assert store.spec(ref).ref == ref
    assert store.state(ref).attempt == 1


def test_arrays_that_nobody_asked_for_are_not_read_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "arrays.npz"
    np.savez(file, drift=np.arange(9.0), frames=np.zeros(1000))
    data = file.read_bytes()
    at = data.index(b"frames.npy") + 300  # a flipped bit in the array that is not asked for
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert arrays_in(file.read_bytes(), ["drift", "absent"]).keys() == {"drift"}
    with pytest.raises(ValueError, match="not a whole archive of arrays"):
        read_arrays(file)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(OSError, match="FIFO"):
        read_arrays(tmp_path / "pipe.npz")
