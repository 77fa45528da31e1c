"""The store: one owner a job, whole files or none, damage told and mended."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_jobs
import pytest
from fake_jobs import add, count

from diamond_bench.errors import UserError
from diamond_bench.launch.attempt import run_job
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import sealed
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import KINDS, CollectDataset, TrainWorldModel
from diamond_bench.store.locks import ClaimLost, Timing
from diamond_bench.store.states import result_stamp

TESTS = Path(__file__).parent


def make_store(root: Path, **options: object) -> Store:
    return Store(root, kinds=fake_jobs.KINDS, **options)  # type: ignore[arg-type]


def finished(store: Store, spec: JobSpec) -> JobRef:
    store.prepare(spec)
    assert run_job(store, spec.ref, "cpu").name == "done"
    return spec.ref


def in_another_process(root: Path, code: str) -> subprocess.Popen[str]:
    """A process with `store` and `spec` (the job count("a")) in scope."""
    setup = (
        "import sys, time, fake_jobs; from pathlib import Path; from diamond_bench.store.artifacts import Store\n"
        "store = Store(sys.argv[1], kinds=fake_jobs.KINDS); spec = fake_jobs.count('a')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-P", "-c", setup + code, str(root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "outputs")


# Identity and config


def test_config_is_read_back_as_the_same_job(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dataset = JobSpec("collect_dataset", CollectDataset("Breakout"))
    training = JobSpec("train_world_model", TrainWorldModel(seed=3), {"dataset": dataset.ref})
    for spec in (dataset, training):
        store.prepare(spec)
        read = store.spec(spec.ref)
        assert (read.config, dict(read.inputs), read.id) == (spec.config, dict(spec.inputs), spec.id)
        assert read.revision == KINDS[spec.kind].revision


def test_reading_creates_nothing(store: Store) -> None:
    assert store.states() == {}
    assert store.state(count("a").ref).status == "missing"
    assert store.claim(count("a").ref) is None
    store.require_writable()
    assert not store.root.exists()


def test_damaged_config_is_named(store: Store) -> None:
    spec = count("a")
    store.prepare(spec)
    path = store.folder(spec.ref) / "config.yaml"
    whole = path.read_text()
    for damaged in (whole.replace("name: a", "name: b"), whole[: len(whole) // 2], ""):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"config\.yaml is damaged"):
            store.spec(spec.ref)


def test_copied_folder_is_not_the_job_it_is_named_after(store: Store) -> None:
    one, two = count("a"), count("b")
    store.prepare(one)
    store.folder(one.ref).rename(store.folder(two.ref))
    with pytest.raises(UserError, match=f"describes job {one.ref}, not {two.ref}"):
        store.spec(two.ref)


def test_find_by_the_beginning_of_an_id(store: Store) -> None:
    spec = count("a")
    store.prepare(spec)
    assert store.find(spec.id[:6]) == store.find(f"count/{spec.id[:4]}") == spec.ref
    with pytest.raises(UserError, match=f"names no job.*{spec.id}"):
        store.find("zzzz")
    with pytest.raises(UserError, match=r"names no job.*there are none"):
        store.find("zzzz", ["evaluate"])


# One owner


def test_claim_runs_through_its_states(store: Store) -> None:
    spec = count("a")
    store.prepare(spec)
    assert store.state(spec.ref).status == "pending"
    with store.claim(spec.ref) as claim:  # type: ignore[union-attr]
        assert store.claim(spec.ref) is None
        assert store.state(spec.ref).status == "running"
        claim.progress(1, 2, "half")
    assert store.state(spec.ref).status == "preempted"
    assert (store.state(spec.ref).done, store.state(spec.ref).text) == (1, "half")
    with contextlib.suppress(ValueError), store.claim(spec.ref) as claim:  # type: ignore[union-attr]
        assert claim.attempt == 2
        raise ValueError("bad\nthing")
    state = store.state(spec.ref)
    assert (state.status, state.error, state.attempt) == ("failed", "ValueError: bad thing", 2)
    with store.claim(spec.ref) as claim:  # type: ignore[union-attr]
        claim.finish({"rows": [], "info": {}, "recorded": {}})
    assert store.state(spec.ref).status == "done"
    assert store.claim(spec.ref) is None, "a done job must not be run again"


def test_one_of_many_processes_wins(store: Store) -> None:
    store.prepare(count("a"))
    code = "print('here', flush=True)\ninput()\nclaim = store.claim(spec.ref)\nprint(claim is not None, flush=True)\ninput()"
    processes = [in_another_process(store.root, code) for _ in range(4)]
    assert [line(process) for process in processes] == ["here"] * 4
    for process in processes:
        tell(process)
    answers = [line(process) for process in processes]
    for process in processes:
        process.communicate("\n")
    assert sorted(answers) == ["False"] * 3 + ["True"]


def test_kill_9_frees_the_claim_at_once(store: Store) -> None:
    store.prepare(count("a"))
    ref = count("a").ref
    code = 'import os\nclaim = store.claim(spec.ref)\nchild = os.fork()\nos.write(1, b"%d\\n" % child)\ntime.sleep(60)'
    process = in_another_process(store.root, code)
    orphan = max(int(line(process)), int(line(process)))
    assert store.claim(ref) is None
    assert store.state(ref).status == "running"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        os.kill(orphan, 0)  # lives, and must not keep the claim
        assert store.state(ref).status == "lost"
        claim = store.claim(ref)
        assert claim is not None
        assert claim.attempt == 2
        claim.release()
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_another_host_takes_over_only_after_silence_and_the_late_owner_is_fenced(tmp_path: Path) -> None:
    timing = Timing(beat_seconds=60, takeover_seconds=1.0)
    here, there = (make_store(tmp_path, host=host, timing=timing) for host in ("here", "there"))
    spec = count("a")
    here.prepare(spec)
    first = here.claim(spec.ref)
    assert first is not None
    assert there.claim(spec.ref) is None
    assert there.state(spec.ref).status == "running"
    time.sleep(1.1)
    assert here.state(spec.ref).status == "running", "on its own host the flock says that it lives"
    assert there.state(spec.ref).status == "lost"
    second = there.claim(spec.ref)
    assert second is not None
    assert second.attempt == 2
    with pytest.raises(ClaimLost):
        first.check()
    with pytest.raises(ClaimLost):
        first.finish({"rows": [], "info": {"of": "the late owner"}, "recorded": {}})
    assert not (here.folder(spec.ref) / "result.json").exists()
    second.check()
    second.finish({"rows": [], "info": {"of": "the successor"}, "recorded": {}})
    assert here.result(spec.ref).info == {"of": "the successor"}
    assert here.state(spec.ref).status == "done"


def test_heartbeat_keeps_a_claim_and_notices_its_loss(tmp_path: Path) -> None:
    timing = Timing(beat_seconds=0.1, takeover_seconds=0.6)
    here, there = (make_store(tmp_path, host=host, timing=timing) for host in ("here", "there"))
    spec = count("a")
    here.prepare(spec)
    claim = here.claim(spec.ref)
    assert claim is not None
    time.sleep(1.0)
    assert there.claim(spec.ref) is None
    here.folder(spec.ref).rename(tmp_path / "elsewhere")
    time.sleep(0.4)
    assert claim.lost
    here.prepare(spec)
    successor = there.claim(spec.ref)
    assert successor is not None
    assert successor.attempt == claim.attempt == 1, "numbers start anew in a new folder: told apart by the file itself"
    with pytest.raises(ClaimLost):
        claim.finish({"rows": [], "info": {}, "recorded": {}})
    successor.release()


# Whole files


def test_result_is_what_makes_a_job_done(store: Store) -> None:
    spec = count("a")
    finished(store, spec)
    folder = store.folder(spec.ref)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "status": "running", "result_bytes": None}))
    assert store.state(spec.ref).status == "done"
    assert store.claim(spec.ref) is None
    assert json.loads((folder / "state.json").read_text())["status"] == "done", "healed by the next claimer"
    (folder / "state.json").unlink()
    assert store.state(spec.ref).status == "done"
    result = store.result(spec.ref)
    assert [(row["metric"], row["value"], row["measured"]) for row in result.rows] == [
        ("total", 3.0, False),
        ("infinite", float("inf"), False),
        ("seconds", 1.5, True),
    ]
    assert result.info == {"nan": "nan"}
    assert set(result.files) == {"total", "media/text.txt"}
    assert result.recorded["device"] == "cpu"
    assert result.recorded["attempts"] == 1


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("result.json", "truncated"),
        ("result.json", "emptied"),
        ("result.json", "removed"),
        ("config.yaml", "truncated"),
        ("config.yaml", "emptied"),
        ("total", "truncated"),
        ("total", "removed"),
    ],
)
def test_a_damaged_artifact_is_set_aside_and_created_again(tmp_path: Path, name: str, damage: str) -> None:
    said: list[str] = []
    store = make_store(tmp_path, say=said.append)
    spec = count("a", steps=10)
    finished(store, spec)
    path = store.folder(spec.ref) / name
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "truncated" else b"")
    if name == "result.json":
        assert store.state(spec.ref).status == "damaged"
        with pytest.raises(UserError, match=r"result\.json"):
            store.result(spec.ref)
    assert str(path) in store.damage(spec.ref)
    store.prepare(spec)
    assert str(path) in said[0]
    assert "set aside" in said[0]
    assert store.state(spec.ref).status == "pending"
    assert len(list(store.root.glob(f"count/{spec.id}.damaged-*"))) == 1
    assert store.refs() == [spec.ref]
    finished(store, spec)


def test_same_size_corruption_of_an_input_is_found_when_it_is_used(tmp_path: Path) -> None:
    store = make_store(tmp_path, say=lambda text: None)
    left = finished(store, count("a"))
    (store.folder(left) / "total").write_text("9")
    spec = add("b", left)
    store.prepare(spec)
    end = run_job(store, spec.ref, "cpu")
    assert end.name == "failed"
    assert "total is damaged" in end.text
    assert "SHA-256" in end.text
    assert store.state(left).status == "missing", "set aside, for the next sweep to make anew"


def test_damaged_state_costs_no_progress(tmp_path: Path) -> None:
    said: list[str] = []
    store = make_store(tmp_path, say=said.append)
    spec = count("a")
    store.prepare(spec)
    store.claim(spec.ref).release()  # type: ignore[union-attr]
    (store.folder(spec.ref) / "keep").touch()
    for content in ("", '{"stat', "[]", "\0" * 50):
        (store.folder(spec.ref) / "state.json").write_text(content)
        assert store.state(spec.ref).status == "damaged"
        assert store.states()[spec.ref].status == "damaged"
        store.prepare(spec)
        assert store.state(spec.ref).status == "pending"
        assert "state.json" in said.pop()
    assert (store.folder(spec.ref) / "keep").exists()


def test_a_job_somebody_runs_is_not_set_aside(store: Store) -> None:
    spec = count("a")
    store.prepare(spec)
    with store.claim(spec.ref):  # type: ignore[union-attr]
        assert store.set_aside(spec.ref, "damaged") is None
        assert store.folder(spec.ref).exists()


@pytest.mark.parametrize("root", ["file/outputs", "/proc/outputs"])
def test_unwritable_root_is_refused_and_nothing_created(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").touch()
    store = make_store(tmp_path / root)
    for action in (store.require_writable, lambda: store.prepare(count("a"))):
        with pytest.raises(UserError, match=r"output folder .* cannot be written"):
            action()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_ten_thousand_states_are_read_fast(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    finished(store, count("template"))
    template = store.folder(count("template").ref)
    result, state = (json.loads((template / name).read_text()) for name in ("result.json", "state.json"))
    for number in range(10_000):
        folder = tmp_path / "count" / f"{number:016x}"
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(sealed({**result, "id": folder.name})))
        (folder / "state.json").write_text(json.dumps({**state, **result_stamp(folder)}))
        (folder / "config.yaml").write_bytes((template / "config.yaml").read_bytes())
    start = time.perf_counter()
    states = store.states()
    seconds = time.perf_counter() - start
    assert len(states) == 10_001
    assert {state.status for state in states.values()} == {"done"}
    assert seconds < 2.0
