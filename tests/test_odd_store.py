"""A store with odd content: edited results, wrong JSON, links. Nothing ends in a traceback, nothing outside the store is touched."""

import contextlib
import copy
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_jobs import add, count
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_housekeeping import plan_of
from test_store import finished, make_store

from diamond_bench.errors import UserError
from diamond_bench.launch.attempt import run_job
from diamond_bench.launch.slurm.follow import logs
from diamond_bench.reading import DEEPEST
from diamond_bench.results.table import unverified
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch, read_batches, write_batch
from diamond_bench.store.files import DamagedFile, digest, read_json, sealed
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.states import CHECKSUM
from diamond_bench.studies.housekeeping import du, gc, merge, planned, remember
from diamond_bench.studies.overview import describe, overview
from diamond_bench.studies.plan import load_plans
from diamond_bench.studies.registration import registrations


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one finished job, one that failed, a plan, and a batch given to SLURM."""
    root = tmp_path_factory.mktemp("template") / "outputs"
    store = make_store(root, say=lambda text: None)
    ref = finished(store, count("a"))
    store.prepare(count("f"))
    store.claim(count("f").ref).fail("bad")  # type: ignore[union-attr]
    folder = root / "studies" / "study" / "smoke"
    remember(folder, [ref])
    (folder / "plan.json").write_text(json.dumps(plan_of([ref])))
    write_batch(root, Batch("b", "label", "study", "count", ((ref,),), 10, 60, 1, 1.0, array="1"))
    return root


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(template: Path, tmp_path: Path, said: list[str]) -> Store:
    shutil.copytree(template, tmp_path / "outputs")
    return make_store(tmp_path / "outputs", say=said.append)


def edit(path: Path, change: Callable[[dict[str, Any]], object], seal: bool = False) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(sealed(content) if seal else content))


def as_format_1(store: Store, ref: JobRef) -> None:
    """Makes a job look as an earlier version wrote it: no format, no checksum, and a state without the time of the result."""
    folder = store.folder(ref)
    body = (folder / "config.yaml").read_bytes().partition(b"\n")[2].replace(b"format: 2\n", b"")
    (folder / "config.yaml").write_bytes(CHECKSUM + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    edit(folder / "result.json", lambda content: content.pop("sha256"))
    size = (folder / "result.json").stat().st_size
    edit(folder / "state.json", lambda content: (content.pop("result_time"), content.update(result_bytes=size)))


# The checksum of a result


def test_a_changed_number_is_found_and_the_job_repeated(store: Store, said: list[str]) -> None:
    ref = count("a").ref
    file = store.folder(ref) / "result.json"
    before = file.read_text()
    assert store.result(ref).rows[0]["value"] == 3.0
    file.write_text(before.replace('"value": 3.0', '"value": 4.0'))
    assert len(file.read_text()) == len(before), "an edit that changes no size"
    assert store.state(ref).status == store.states()[ref].status == "damaged"
    with pytest.raises(DamagedFile, match="checksum"):
        store.result(ref)
    assert "checksum" in store.damage(ref)
    store.prepare(count("a"))
    assert "set aside" in said[0]
    assert run_job(store, ref, "cpu").name == "done"
    assert store.result(ref).rows[0]["value"] == 3.0


def test_a_changed_number_is_not_merged(store: Store, tmp_path: Path) -> None:
    here = make_store(tmp_path / "here")
    edit(store.folder(count("a").ref) / "result.json", lambda content: content["rows"][0].update(value=4.0))
    merged = merge(here, store.root)
    assert merged.copied == ()
    assert "checksum" in merged.refused[0]
    assert here.state(count("a").ref).status == "missing"


def test_results_of_format_1_are_unverified_and_no_error(store: Store, tmp_path: Path) -> None:
    ref = count("a").ref
    assert store.result(ref).verified
    assert "checksum: verified" in describe(store, ref)
    assert unverified({ref: store.result(ref)}) == []
    as_format_1(store, ref)
    assert store.state(ref).status == "done"
    assert store.damage(ref, contents=True) == ""
    assert not store.result(ref).verified
    assert "unverified" in describe(store, ref)
    assert "1 of 1 results are unverified" in unverified({ref: store.result(ref)})[0]
    here = make_store(tmp_path / "here")
    assert merge(here, store.root).copied == (ref,)
    assert not here.result(ref).verified
    store.prepare(count("a"))
    assert store.state(ref).status == "done", "kept, not made again"


def test_format_2_requires_the_checksum(store: Store) -> None:
    ref = count("a").ref
    assert (store.folder(ref) / "config.yaml").read_text().splitlines()[1] == "format: 2"
    edit(store.folder(ref) / "result.json", lambda content: content.pop("sha256"))
    assert "no checksum" in store.state(ref).error
    (store.folder(ref) / "config.yaml").unlink()
    assert "no checksum" in store.damage(ref), "without a config nothing says that the result is of an earlier format"


# Malformed files

FILES = {
    "a": {
        "list": ["a"],
        "number": {"a": 1},
        "null": None,
        "no size": {"a": [None, "0" * 64]},
        "NUL": {"a\0b": [1, "0" * 64]},
        "surrogate": {"a\ud800": [1, "0" * 64]},
        "long name": {"a" * 300: [1, "0" * 64]},
        "long path": {"a/" * 600 + "a": [1, "0" * 64]},
        "huge size": {"a": [10**4000, "0" * 64]},
    }
}["a"]


@pytest.mark.parametrize("files", FILES.values(), ids=FILES.keys())
def test_one_malformed_job_is_left_out_of_a_merge_and_the_others_come(store: Store, tmp_path: Path, files: Any) -> None:
    here = make_store(tmp_path / "here")
    good = finished(store, add("good", count("a").ref))
    file = store.folder(count("a").ref) / "result.json"
    file.write_text(json.dumps(sealed({**json.loads(file.read_text()), "files": files})))
    merged = merge(here, store.root)
    assert merged.copied == (good,)
    assert [str(count("a").ref) in reason and "\n" not in reason for reason in merged.refused] == [True]
    store.prepare(count("a"))
    assert store.state(count("a").ref).status == "pending", "in the own store it is set aside"


def test_json_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    nested = '{"a": ' * DEEPEST + "1" + "}" * DEEPEST
    file.write_text(nested)
    assert read_json(file)
    wrong = [
        '{"a": ' + nested + "}",
        '{"a":' + "[" * 200_000 + "]" * 200_000 + "}",
        '{"a": NaN}',
        '{"a": 1e400}',
        '{"a": "\\ud800"}',
        "[]",
        "",
    ]
    for text in (*wrong, '{"a": %s}' % ("9" * 5000)):
        file.write_text(text)
        with pytest.raises(DamagedFile, match=r"file\.json"):
            read_json(file)
    file.write_bytes(b'{"a": "\xed\xa0\x80"}')
    with pytest.raises(DamagedFile):
        read_json(file)
    file.write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(file) == {"a": "\U0001f600"}
    with pytest.raises(DamagedFile, match="at most 5"):
        read_json(file, most=5)
    for make in (Path.mkdir, os.mkfifo):
        file.unlink()
        make(file)
        with pytest.raises(DamagedFile, match="plain file"):
            read_json(file)
        file.rmdir() if file.is_dir() else None
        file.touch()


@pytest.mark.parametrize("line", ["x: !!int abc", "x: &a [1, *a]", "kind: count", "format: " + "1" * 5001], ids=lambda line: line[:12])
def test_a_config_is_read_as_all_yaml_is(store: Store, line: str) -> None:
    file = store.folder(count("a").ref) / "config.yaml"
    body = file.read_bytes().partition(b"\n")[2] + line.encode() + b"\n"
    file.write_bytes(CHECKSUM + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.raises(DamagedFile, match=r"config\.yaml is damaged"):
        store.spec(count("a").ref)


def test_a_claim_that_is_a_folder_or_a_link_or_from_the_future_holds_nobody_up(store: Store, tmp_path: Path) -> None:
    ref = count("f").ref
    folder = store.folder(ref)
    (tmp_path / "outside").write_text('{"host": "elsewhere", "locked": false}')
    (folder / "claim-000002").mkdir()
    claim = store.claim(ref)
    assert claim is not None
    assert claim.attempt == 3
    claim.release()
    (folder / "claim-000004").symlink_to(tmp_path / "outside")
    claim = store.claim(ref)
    assert claim is not None
    assert claim.attempt == 5
    claim.release()
    assert (tmp_path / "outside").exists()
    late = folder / "claim-000006"
    for text in ('{"host": "elsewhere", "locked": false}', "[]", "[" * 10**5):
        late.write_text(text)
        os.utime(late, (time.time() + 365 * 86400,) * 2)
        assert store.state(ref).status != "running"
        claim = store.claim(ref)
        assert claim is not None
        claim.release()
        late = folder / f"claim-{claim.attempt + 1:06d}"
    for name in ("claim-00000١", "claim-0000009"):  # names that are no claims
        (folder / name).write_text("{}")
    assert store.claim(ref) is not None


# Generated content

_TEXT = st.text(st.characters(), max_size=6) | st.sampled_from(["\ud800", "\0", "../../x", "a" * 300, "nan", "done", "running"])
_LEAF = st.none() | st.booleans() | st.integers() | st.floats() | _TEXT | st.sampled_from([10**400, 2**60, -1])
VALUES = st.recursive(_LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3), max_leaves=6)


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in JSON."""
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*here, key))


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


def look_at_everything(store: Store, elsewhere: Store) -> None:
    """Every command of the store's, in process. What a user sees as a message is a UserError; anything else fails the test."""
    refs = [count("a").ref, count("f").ref]

    def refused(action: Callable[[], object]) -> None:
        try:
            action()
        except UserError as error:
            str(error).encode()

    for state in store.states().values():
        assert math.isfinite(state.seconds)
        time.localtime(state.started or 0)
    for ref in refs:
        refused(lambda ref=ref: describe(store, ref))  # type: ignore[misc]
        refused(lambda ref=ref: logs(store, ref))  # type: ignore[misc]
        store.damage(ref, contents=True)
    for action in (lambda: overview(store, None, []), lambda: planned(store.root), lambda: load_plans(store.root), lambda: du(store)):
        refused(action)
    refused(lambda: read_batches(store.root))
    refused(lambda: registrations(store.root / "studies" / "study" / "smoke"))
    merge(elsewhere, store.root)
    refused(lambda: gc(store, set(), unplanned=True, dry_run=True))
    for spec in (count("a"), count("f")):
        store.prepare(spec)
        if (claim := store.claim(spec.ref)) is not None:
            claim.release()


FILE_NAMES = ("result.json", "state.json", "claim-000001", "plan.json", "jobs.json", "batch.json", "registration.json")


def file_of(store: Store, name: str) -> Path:
    ref = count("a").ref
    study = store.root / "studies" / "study" / "smoke"
    inside = {"jobs.json": next(iter((study / "jobs").iterdir())), "batch.json": store.root / "slurm" / "b" / "batch.json"}
    inside |= {name: study / name for name in ("plan.json", "registration.json")}
    return inside.get(name, store.folder(ref if name == "result.json" else count("f").ref) / name)


@pytest.mark.parametrize("name", FILE_NAMES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_generated_content_ends_in_a_traceback(
    template: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    shutil.copytree(template, folder / "outputs")
    (folder / "outside").write_text("x")
    store, elsewhere = (make_store(folder / root, say=lambda text: None) for root in ("outputs", "elsewhere"))
    file = file_of(store, name)
    content = json.loads(file.read_text()) if file.exists() else registration()
    if name == "result.json" and data.draw(st.booleans()):
        as_format_1(store, count("a").ref)
        content = json.loads(file.read_text())
    place = data.draw(st.sampled_from(list(places(content))))
    odd = changed(content, place, data.draw(VALUES))
    if name == "result.json" and isinstance(odd, dict) and data.draw(st.booleans()):
        with contextlib.suppress(ValueError):
            odd = sealed(odd)
    if name == "registration.json" and isinstance(odd, dict):
        with contextlib.suppress(ValueError, KeyError):
            odd["sha256"] = digest(odd["content"])
    file.write_text(json.dumps(odd))
    look_at_everything(store, elsewhere)
    assert sorted(path.name for path in folder.iterdir()) == ["elsewhere", "outputs", "outside"]
    assert (folder / "outside").read_text() == "x"
    shutil.rmtree(folder)


def registration() -> dict[str, Any]:
    primary = {
        "metric": "drift",
        "baseline": {},
        "margin": 0.0,
        "variants": [],
        "test": "permutation",
        "looks": [],
        "holm_equivalence": False,
    }
    ref = str(count("a").ref)
    about = {"study": "study", "scale": "smoke", "primary": primary, "variants": ["a"], "games": ["Pong"], "seeds": [0], "time": "now"}
    return {"content": {**about, "finished": [ref], "evaluations": [["a", "Pong", 0, ref]]}, "sha256": ""}


# Links


def outside_of(store: Store) -> Path:
    """A folder beside the store that looks like a job's, for links to point to."""
    folder = store.root.parent / "outside"
    shutil.copytree(store.folder(count("a").ref), folder)
    (folder / "claim-000001").unlink()
    return folder


def listed(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["", "checkpoint", "log.txt", "state.json", "config.yaml", "result.json", "media", "total", "claim-000001"]
)
def test_a_link_is_never_followed_and_its_job_is_set_aside(store: Store, said: list[str], name: str) -> None:
    outside, ref = outside_of(store), count("a").ref
    (outside / "claim-000001").write_text('{"host": "elsewhere", "locked": false}')
    before = listed(outside)
    place = store.folder(ref) / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(outside / name)
    assert f"{place} is damaged: it is a symbolic link" in store.damage(ref)
    du(store)
    gc(store, {ref}, unplanned=True)
    store.prepare(count("a"))
    if name not in ("checkpoint", "claim-000001"):  # of which `gc` has removed the link, and the link alone
        assert "symbolic link" in said[0]
        assert "set aside" in said[0]
    assert run_job(store, ref, "cpu").name in ("done", "taken")
    assert store.state(ref).status == "done"
    assert not store.damage(ref, contents=True)
    gc(store, {ref}, unplanned=True)
    assert not list(store.root.glob("*/*.damaged-*"))
    assert listed(outside) == before


def test_links_and_files_in_place_of_folders_are_named(store: Store, tmp_path: Path, said: list[str]) -> None:
    outside = outside_of(store)
    before = listed(outside)
    (store.root / "count" / "0123456789abcdef").write_text("a file named like a job")
    (store.root / "count" / "0123456789abcdee").symlink_to(outside)
    (store.root / "count" / "0123456789abcded.damaged-1").symlink_to(outside)
    (store.root / "count" / "0123456789abcdec.damaged-2").write_text("x")
    (store.root / "compiled").symlink_to(outside)
    states = store.states()
    assert "not a folder" in states[JobRef("count", "0123456789abcdef")].error
    assert "symbolic link" in states[JobRef("count", "0123456789abcdee")].error
    assert len(du(store)) == 4
    refused = merge(make_store(tmp_path / "here"), store.root).refused
    assert sum("0123456789abcde" in reason for reason in refused) == 2
    gc(store, {count("a").ref, count("f").ref}, unplanned=True)
    assert {path.name for path in (store.root / "count").iterdir()} == {count("a").ref.id, count("f").ref.id}
    assert not os.path.lexists(store.root / "compiled")
    assert listed(outside) == before


@pytest.mark.parametrize(
    "name", ["count", "studies", "studies/study", "studies/study/smoke", "studies/study/smoke/jobs", "slurm", "slurm/b"]
)
def test_a_linked_folder_of_the_store_is_refused_by_name(store: Store, name: str) -> None:
    place, outside = store.root / name, store.root.parent / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    before = listed(outside)
    folder, batch = store.root / "studies" / "study" / "smoke", Batch("b", "label", "study", "count", (), 10, 60, 1, 1.0)
    reading = {"count": store.states, "studies": lambda: planned(store.root), "slurm": lambda: read_batches(store.root)}
    writing = {
        "count": lambda: store.prepare(count("new")),
        "studies": lambda: remember(folder, [count("new").ref]),
        "slurm": lambda: write_batch(store.root, batch),
    }
    for actions in (reading, writing):
        with pytest.raises(UserError, match=f"{place}.*symbolic link"):
            actions[name.partition("/")[0]]()
    assert listed(outside) == before


def test_the_root_may_be_a_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(store.root)
    linked = make_store(tmp_path / "linked")
    assert linked.states().keys() == store.states().keys()
    assert finished(linked, count("b")) in store.states()


def test_a_linked_log_is_neither_written_nor_shown(store: Store, tmp_path: Path) -> None:
    ref = count("f").ref
    (tmp_path / "secret").write_text("secret")
    (store.folder(ref) / "log.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"log\.txt: it is a symbolic link"):
        logs(store, ref)
    assert run_job(store, ref, "cpu").name == "crashed", "where nobody prepared it, which sets it aside"
    assert (tmp_path / "secret").read_text() == "secret"
