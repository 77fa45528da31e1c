"""Plans, records of planned jobs and artifacts that were edited are not believed; what is printed of logs shows control characters."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import in_this_process
from fake_jobs import count
from rewritten import rewrite_arrays
from test_store import finished, make_store

from diamond_bench.compose import parse
from diamond_bench.errors import UserError
from diamond_bench.launch.slurm import follow
from diamond_bench.report.drawing import stored_arrays
from diamond_bench.report.markup import escaped, marked
from diamond_bench.results.table import unverified_plan
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import DamagedFile, has_seal, sealed
from diamond_bench.studies.housekeeping import merge, planned, remember
from diamond_bench.studies.plan import SavedPlan, load_plan, plan_study, save_plan
from diamond_bench.terminal import SafeConsole


def swept(folder: Path) -> SavedPlan:
    """A plan in a store, as a sweep leaves it."""
    plan = plan_study("sampling_steps", ["scale=tiny"])
    saved = save_plan(plan, folder / "outputs")
    remember(saved.folder, plan.jobs)
    return saved


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_an_edited_plan_is_refused_by_every_reader(tmp_path: Path) -> None:
    saved = swept(tmp_path)
    assert load_plan(saved.folder) == saved
    assert unverified_plan(saved) == []
    edit(saved.folder / "plan.json", '"n=1"', '"n=2"')  # the numbers of one variant under the name of another
    with pytest.raises(DamagedFile, match="its checksum does not fit"):
        load_plan(saved.folder)
    for command in (("results", "sampling_steps"), ("status",), ("gc", "--unplanned", "--dry-run"), ("power", "sampling_steps")):
        (tmp_path / "outputs" / "collect_dataset").mkdir(exist_ok=True)
        assert "its checksum does not fit" in in_this_process(*command, cwd=tmp_path, exit_code=2).stderr
    merged = merge(make_store(tmp_path / "here"), tmp_path / "outputs")
    assert merged.plans == ()
    assert "its checksum does not fit" in " ".join(merged.refused)


def test_a_plan_of_an_earlier_version_is_read_with_a_note(tmp_path: Path) -> None:
    saved = swept(tmp_path)
    content = json.loads((saved.folder / "plan.json").read_text())
    del content["sha256"]
    (saved.folder / "plan.json").write_text(json.dumps(content))
    found = load_plan(saved.folder)
    assert found.points == saved.points
    assert "the plan is unverified" in unverified_plan(found)[0]
    assert "the plan is unverified" in in_this_process("results", "sampling_steps", "--json", cwd=tmp_path, exit_code=2).stderr


def test_an_edited_record_of_planned_jobs_is_refused(tmp_path: Path) -> None:
    saved = swept(tmp_path)
    assert planned(tmp_path / "outputs") == set(saved.jobs)
    (record,) = (saved.folder / "jobs").iterdir()
    jobs = json.loads(record.read_text())["jobs"]
    record.write_text(json.dumps({"jobs": jobs[1:]}))
    with pytest.raises(DamagedFile, match="its name is not the checksum of its jobs"):
        planned(tmp_path / "outputs")


def test_a_seal_fits_its_content_alone() -> None:
    assert has_seal(sealed({"a": 1.5}), "file")
    assert not has_seal({"a": 1.5}, "file")
    with pytest.raises(DamagedFile, match="file is damaged"):
        has_seal({**sealed({"a": 1.5}), "a": 1.25}, "file")


def with_arrays(folder: Path) -> Store:
    store = make_store(folder / "outputs", say=lambda text: None)
    rewrite_arrays(store, finished(store, count("a")), "arrays.npz", drift=np.ones(3))
    return store


def test_figures_use_only_arrays_that_the_job_wrote(tmp_path: Path) -> None:
    store, ref = with_arrays(tmp_path), count("a").ref
    assert stored_arrays(store, ref, "arrays.npz", "drift")["drift"].sum() == 3
    np.savez(store.folder(ref) / "arrays.npz", drift=np.full(3, 2.0))  # of the same size
    with pytest.raises(DamagedFile, match="its content is not what the job wrote"):
        stored_arrays(store, ref, "arrays.npz", "drift")
    assert store.state(ref).status == "missing", "set aside"


@pytest.mark.parametrize("name", ["arrays.npz", "../a/arrays.npz"])
def test_a_link_or_an_unlisted_file_is_no_artifact(tmp_path: Path, name: str) -> None:
    store, ref = with_arrays(tmp_path), count("a").ref
    file = store.folder(ref) / "arrays.npz"
    file.rename(tmp_path / "arrays.npz")
    file.symlink_to(tmp_path / "arrays.npz")
    with pytest.raises(DamagedFile):
        store.artifact(ref, name)


def test_a_game_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="Breakout is given twice"):
        plan_study("sampling_steps", ["scale=tiny", "games=[Breakout,Pong,Breakout]"])


def test_a_pattern_is_no_list_of_values() -> None:
    with pytest.raises(UserError, match=r"only lists of values can sweep, such as sampler.num_steps=1,2,3"):
        parse(["sampler.num_steps=glob(*)"])


def test_logs_show_control_characters_and_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, said = tmp_path / "log.txt", list[str]()
    log.write_bytes(b"begin\x1b[2J\xff\nend\n")
    file = io.StringIO()
    for part in follow.printed(log, said.append):
        SafeConsole(file=file).write(part)
    assert (file.getvalue(), said) == ("begin\\x1b[2J\ufffd\nend\n", [])
    monkeypatch.setattr(follow, "_MAX_SHOWN", 4)
    assert list(follow.printed(log, said.append)) == ["end\n"]
    assert said == ["its first 11 bytes are left out; read them in the file"]


def test_the_report_shows_changes_of_direction() -> None:
    assert escaped("a\u202eb<\x1b") == r"a\u202eb&lt;\x1b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`k=1` halves <b>", "<code>k=1</code> halves &lt;b&gt;"),
        ("none", "none"),
        ("`a` and `b", "<code>a</code> and `b"),
        ("`<i>`", "<code>&lt;i&gt;</code>"),
    ],
)
def test_backticks_of_a_studys_note_are_code(text: str, shown: str) -> None:
    assert marked(text) == shown
