"""Disk taken and freed, and stores merged: nothing that somebody needs is touched."""

import json
from functools import partial
from pathlib import Path

import pytest
from fake_jobs import add, count
from test_store import finished, make_store

from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import sealed
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import KINDS
from diamond_bench.studies.housekeeping import du, gc, merge, planned, remember


def plan_of(jobs: list[JobRef]) -> dict[str, object]:
    """A plan.json that names these jobs and has no points."""
    texts = dict.fromkeys(("study", "question", "note", "protocol", "scale", "command"), "x")
    return {**texts, "axes": {}, "primary": {"metric": "drift"}, "jobs": [list(ref) for ref in jobs], "points": []}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "outputs")


def test_du_separates_checkpoints_and_frames(store: Store) -> None:
    ref = finished(store, count("a"))
    (usage,) = du(store)
    assert (usage.ref, usage.checkpoint, usage.frames) == (ref, 1, 1000)
    assert usage.artifact > 500


def test_gc_removes_what_nobody_needs_and_no_more(store: Store) -> None:
    done, unplanned = finished(store, count("a")), finished(store, count("b"))
    running, begun = count("c").ref, count("d").ref
    for spec in (count("c"), count("d")):
        store.prepare(spec)
        with store.claim(spec.ref):  # type: ignore[union-attr]
            (store.folder(spec.ref) / "checkpoint").mkdir()
    for cache in ("compiled", "played"):
        (store.root / cache / "0").mkdir(parents=True)
    with store.claim(running):  # type: ignore[union-attr]
        before = sorted(store.root.rglob("*"))
        planned = gc(store, {done}, unplanned=True, dry_run=True)
        assert sorted(path for path in store.root.rglob("*") if path in before) == before
        kept = [removal.path.name for removal in gc(store, {done}, frames=False)]
        assert kept == ["checkpoint", "checkpoint", "played"]
        assert [name for name in ("compiled", "played") if (store.root / name).exists()] == ["compiled"]  # the running job uses it
        removed = gc(store, {done, begun}, unplanned=True)
        assert {removal.path for removal in removed} == {store.folder(done) / "frames.npy", store.folder(unplanned)}
        assert store.folder(running).exists()
        assert (store.folder(begun) / "checkpoint").exists()
    assert {removal.path for removal in planned} >= {store.folder(done) / "checkpoint", store.folder(unplanned), store.folder(begun)}
    assert store.damage(done, contents=True) == ""
    assert store.state(done).status == "done"


def test_gc_spares_every_plan_that_was_swept(store: Store) -> None:
    first, second, never = (finished(store, count(name)) for name in "abc")
    folder = store.root / "studies" / "study" / "smoke"
    for swept in (first, second):  # with other overrides, into one plan.json
        (folder / "plan.json").parent.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(json.dumps({"jobs": [list(swept)]}))
        remember(folder, [swept])
        remember(folder, [swept])
    assert len(list((folder / "jobs").iterdir())) == 2
    gc(store, planned(store.root), unplanned=True)
    assert set(store.refs()) == {first, second}
    assert store.state(never).status == "missing"
    (folder / "plan.json").write_text("{}")
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        planned(store.root)


def test_where_there_is_no_store_housekeeping_says_so(store: Store) -> None:
    for action in (partial(du, store), partial(gc, store, set())):
        with pytest.raises(UserError, match="is no store"):
            action()
    assert not store.root.exists()


def test_a_done_job_keeps_its_checkpoint_only_where_its_kind_says_so(store: Store) -> None:
    kept = finished(store, count("a"))
    gone = finished(store, add("b", kept))
    assert (store.folder(kept) / "checkpoint" / "step").exists()
    assert not (store.folder(gone) / "checkpoint").exists()
    assert store.damage(gone, contents=True) == ""
    assert [kind for kind in KINDS if KINDS[kind].keeps_checkpoint] == ["train_world_model", "train_agent"]


def test_merge_copies_done_jobs_once_and_checks_them(tmp_path: Path) -> None:
    here, there = (make_store(tmp_path / name, say=lambda text: None) for name in ("here", "there"))
    first = finished(there, count("a"))
    second = finished(there, add("b", first))
    pending, failed, damaged, edited = (finished(there, count(name)) for name in "cdef")
    (there.folder(damaged) / "total").write_text("9")
    config = there.folder(edited) / "config.yaml"
    config.write_text(config.read_text() + "\n")
    there.prepare(count("not done"))
    plan = there.root / "studies" / "study" / "smoke" / "plan.json"
    remember(plan.parent, [second])
    plan.write_text(json.dumps(plan_of([first])))
    (plan.parent.parent / "paper").mkdir()
    (plan.parent.parent / "paper" / "plan.json").write_text("{}")
    here.prepare(count("c"))
    here.prepare(count("d"))
    here.claim(failed).fail("bad")  # type: ignore[union-attr]
    merged = merge(here, there.root)
    assert set(merged.copied) == {first, second, pending}
    assert len(merged.refused) == 4
    assert planned(here.root) == {first, second}
    assert [path.relative_to(here.root) for path in merged.plans] == [plan.relative_to(there.root)]
    assert all(here.state(ref).status == "done" and not here.damage(ref, contents=True) for ref in merged.copied)
    assert here.spec(second) == there.spec(second)
    assert here.state(failed).status == "failed"
    assert not list(here.root.rglob(".*"))
    again = merge(here, there.root)
    assert (again.copied, set(again.present), again.plans) == ((), {first, second, pending}, ())
    with pytest.raises(UserError, match="is no store"):
        merge(here, tmp_path)


def test_merge_takes_no_file_from_outside_the_job(tmp_path: Path) -> None:
    here, there = (make_store(tmp_path / name) for name in ("here", "there"))
    ref = finished(there, count("a"))
    path = there.folder(ref) / "result.json"
    content = json.loads(path.read_text())
    (tmp_path / "secret").write_text("x")
    path.write_text(json.dumps(sealed({**content, "files": {"../../../secret": [1, "0" * 64]}})))
    merged = merge(here, there.root)
    assert merged.copied == ()
    assert "outside" in merged.refused[0]
