"""A store that several users share: what one may not read names the path and its owner, and the rest goes on."""

import contextlib
import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_jobs import add, count
from test_housekeeping import plan_of
from test_store import finished, make_store

from diamond_bench import cli
from diamond_bench.errors import UserError
from diamond_bench.launch.local import run_local
from diamond_bench.results.table import left_out
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import Batch, read_batches, write_batch
from diamond_bench.store.files import refusal
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.housekeeping import du, gc, merge, remember
from diamond_bench.studies.overview import describe, overview
from diamond_bench.studies.plan import load_plans

NOBODY = 65534


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the finished jobs `open`, `closed` and `after`, the first two of a study."""
    store = make_store(tmp_path_factory.mktemp("template") / "outputs", say=lambda text: None)
    refs = [finished(store, count(name)) for name in ("open", "closed")]
    finished(store, AFTER)
    study = store.root / "studies" / "study" / "smoke"
    remember(study, refs)
    (study / "plan.json").write_text(json.dumps(plan_of(refs)))
    return store.root


@pytest.fixture
def shared(template: Path, said: list[str]) -> Iterator[Store]:
    """A copy of it that every user may enter."""
    folder = Path(tempfile.mkdtemp())  # pytest's own folders let no other user in
    folder.chmod(0o755)
    yield make_store(shutil.copytree(template, folder / "outputs"), say=said.append)
    shutil.rmtree(folder)


@pytest.fixture
def elsewhere(said: list[str]) -> Iterator[Store]:
    """An empty store that every user may write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield make_store(Path(folder) / "outputs", say=said.append)


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Acts as a user who is not root: as nobody, where this user is root. Others meet their own modes anyway."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def closed(path: Path) -> str:
    """Lets nobody but root read a path; how a message names it."""
    path.chmod(0)
    return f"{path} belongs to {pwd.getpwuid(os.getuid()).pw_name} and cannot be "


OPEN, CLOSED = count("open").ref, count("closed").ref
AFTER = add("after", OPEN)


@pytest.fixture(params=["", "result.json", "state.json", "config.yaml"])
def bar(request: pytest.FixtureRequest, shared: Store) -> str:
    """What of the job `closed` may not be read, as a message names it."""
    return closed(shared.folder(CLOSED) / request.param)


def test_a_job_that_may_not_be_read_has_status_unreadable(shared: Store, bar: str) -> None:
    with another_user():
        states = shared.states()
        (shown,) = overview(shared, None, ())
        refused = [_raises(lambda: call(CLOSED), bar) for call in (shared.spec, shared.result)]  # noqa: B023 - called at once
    assert states[OPEN].status == "done"
    name = Path(bar.partition(" ")[0]).name
    assert refused == {"config.yaml": [True, False], "result.json": [False, True], "state.json": [False, False]}.get(name, [True, True])
    if name in ("config.yaml", "result.json"):  # state.json knows the result's size and time of change
        assert (states[CLOSED].status, shown.counts) == ("done", {"done": 2})
        return
    assert (states[CLOSED].status, shown.counts) == ("unreadable", {"done": 1, "unreadable": 1})
    assert bar in states[CLOSED].error
    assert set(shown.notable) == {CLOSED}
    with another_user():
        (note,) = left_out(load_plans(shared.root)[0], shared)
    assert note.startswith(f"{CLOSED} is left out: {bar}")


def _raises(call: object, bar: str) -> bool:
    try:
        call()  # type: ignore[operator]
    except PermissionError as error:
        said = refusal(error)
    else:
        return False
    assert bar in said
    return True


def test_show_du_and_merge_go_on_without_it(shared: Store, bar: str, said: list[str], elsewhere: Store) -> None:
    with another_user():
        assert "verified" in describe(shared, OPEN)
        assert {usage.ref for usage in du(shared)} == {OPEN, CLOSED, AFTER.ref}
        merged = merge(elsewhere, shared.root)
        assert elsewhere.state(OPEN).status == "done"
    folder_alone = str(shared.folder(CLOSED)) + " belongs" in bar
    assert [line.startswith(f"not counted: {bar}") for line in said] == [True] * folder_alone
    if "state.json" in bar or folder_alone:
        assert (len(merged.copied), len(merged.refused)) == (2, 1)
    assert len(merged.refused) == 1
    assert merged.refused[0].startswith(f"{CLOSED}: {bar}")


def test_gc_leaves_what_another_user_closed_or_keeps_from_being_written(shared: Store, said: list[str]) -> None:
    bar = closed(shared.folder(CLOSED))
    shared.folder(OPEN).chmod(0o555)
    with another_user():
        assert gc(shared, {AFTER.ref}, unplanned=True, frames=False) == []
    owner = pwd.getpwuid(os.getuid()).pw_name
    refused = f"left: {bar}entered: ask {owner} for access, or use another output_dir=FOLDER"
    assert sorted(said) == sorted([refused, f"left: {shared.folder(OPEN)} belongs to {owner} and cannot be written"])
    assert shared.folder(OPEN).exists()
    shared.folder(CLOSED).chmod(0o755)


def test_a_sweep_refuses_a_job_that_may_not_be_read_and_names_it(shared: Store) -> None:
    bar = closed(shared.folder(CLOSED))
    with another_user(), pytest.raises(UserError) as refused:
        run_local(shared, [count("open"), AFTER, count("closed")], device="cpu")
    assert f"{CLOSED}: {bar}entered" in str(refused.value)
    with another_user():
        assert run_local(shared, [count("open")], device="cpu").skipped == (OPEN,)  # that of another study is no matter


def test_a_closed_kind_is_named_and_a_merge_goes_on_with_the_others(shared: Store, elsewhere: Store) -> None:
    bar = closed(shared.root / "count")
    with another_user():
        assert _raises(shared.states, bar)
        merged = merge(elsewhere, shared.root)
    (shared.root / "count").chmod(0o755)
    assert merged.copied == (AFTER.ref,)
    assert merged.refused[0].startswith(bar)


@pytest.mark.parametrize("name", ["studies/theirs", "studies/theirs/smoke", "studies/theirs/smoke/plan.json"])
def test_a_closed_study_is_left_out_of_the_others(name: str, shared: Store, said: list[str]) -> None:
    shutil.copytree(shared.root / "studies" / "study", shared.root / "studies" / "theirs")
    bar = closed(shared.root / name)
    with another_user():
        assert len(overview(shared, None, ())) == 1
        assert len(load_plans(shared.root, "study")) == 1
        assert _raises(lambda: load_plans(shared.root, "theirs"), bar)
    assert [line.startswith(f"left out: {bar}") for line in said] == [True]
    (shared.root / name).chmod(0o755)


@pytest.mark.parametrize("name", ["", "batch.json"])
def test_a_closed_batch_of_another_user_is_none_of_ours(name: str, shared: Store) -> None:
    for batch in "ab":
        write_batch(shared.root, Batch(batch, "label", "study", "count", ((OPEN,),), 10, 60, 1, 1.0, array="1"))
    closed(shared.root / "slurm" / "a" / name)
    with another_user():
        assert [batch.name for batch in read_batches(shared.root)] == ["b"]
    (shared.root / "slurm" / "a" / name).chmod(0o755)


def test_commands_name_the_path_and_its_owner(shared: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`show` of a real kind's job, through the command line's own handling."""
    folder = shared.root / "train_world_model" / "0123456789abcdef"
    folder.mkdir(parents=True)
    bar = closed(folder)
    for name, user in (("none", contextlib.nullcontext()), (folder.name, another_user())):  # the first imports what nobody might not
        monkeypatch.setattr("sys.argv", ["diamond-bench", "show", name, f"output_dir={shared.root}"])
        with user, pytest.raises(SystemExit) as end:
            cli.main()
    folder.chmod(0o755)
    said = " ".join(capsys.readouterr().err.split())
    assert (end.value.code, bar + "entered" in said) == (2, True), said


def test_a_folder_that_may_not_be_written_names_its_owner(shared: Store) -> None:
    shared.root.chmod(0o555)
    with another_user(), pytest.raises(UserError) as refused:
        shared.require_writable()
    shared.root.chmod(0o755)
    owner = pwd.getpwuid(os.getuid()).pw_name
    assert f"cannot be written (Permission denied: {shared.root} belongs to {owner})" in str(refused.value)
    assert JobRef("count", "0") not in shared.states()
