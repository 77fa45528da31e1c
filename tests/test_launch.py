"""Sweeps on this machine, with real worker processes: shared, killed, stopped, resumed; nothing lost, nothing done twice."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fake_jobs
import pytest
from fake_jobs import add, count

from diamond_bench.errors import UserError
from diamond_bench.launch.devices import worker_devices
from diamond_bench.launch.events import Event
from diamond_bench.launch.local import Summary, run_local
from diamond_bench.launch.progress import duration, progress_display
from diamond_bench.studies.jobspec import JobSpec
from diamond_bench.studies.store import Store

TESTS = Path(__file__).parent
WORKER = ("--kinds", "fake_jobs:KINDS", "--grace", "1")

SWEEP = """
import fake_jobs, json, sys
from diamond_bench.launch.local import run_local
from diamond_bench.studies.store import Store
store = Store(sys.argv[1], kinds=fake_jobs.KINDS)
options = json.loads(sys.argv[2])
specs = [fake_jobs.count(f"job{i}", **options) for i in range(int(sys.argv[3]))]
summary = run_local(store, specs, num_workers=2, device="cpu", worker_arguments=("--kinds", "fake_jobs:KINDS", "--grace", "1"))
print(len(summary.done), len(summary.skipped), len(summary.failed), len(summary.interrupted), flush=True)
sys.exit(summary.exit_code)
"""


@pytest.fixture(autouse=True)
def workers_find_the_fake_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "outputs", kinds=fake_jobs.KINDS, say=lambda text: None)


def sweep(store: Store, specs: list[JobSpec], **options: object) -> Summary:
    return run_local(store, specs, device="cpu", worker_arguments=WORKER, **{"num_workers": 1, **options})  # type: ignore[arg-type]


@contextlib.contextmanager
def sweeping(store: Store, num_jobs: int, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A sweep of the jobs job0, job1, ... in a process of its own."""
    command = [sys.executable, "-P", "-c", SWEEP, str(store.root), json.dumps(options), str(num_jobs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def jobs(num_jobs: int) -> list[JobSpec]:
    return [count(f"job{i}") for i in range(num_jobs)]


def until(condition: object, seconds: float = 30.0) -> None:
    """Waits until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def steps(ledger: Path) -> Counter[str]:
    """How often each step of each job was made."""
    return Counter(" ".join(line.split()[:2]) for line in ledger.read_text().splitlines()) if ledger.exists() else Counter()


def pids(ledger: Path) -> set[int]:
    return {int(line.split()[2]) for line in ledger.read_text().splitlines()} if ledger.exists() else set()


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_jobs_run_in_dependency_order_in_one_process_and_once(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    first = count("first", ledger=str(ledger))
    second = add("second", first.ref, ledger=str(ledger))
    third = add("third", second.ref, ledger=str(ledger))
    events: list[Event] = []
    summary = sweep(store, [third, second, first], on_event=events.append)
    assert summary.done == (first.ref, second.ref, third.ref)
    assert summary.exit_code == 0
    assert store.result(third.ref).rows[0]["value"] == 9.0
    assert len(pids(ledger)) == 1
    assert set(steps(ledger).values()) == {1}
    names = [event.name for event in events if event.ref == second.ref and event.name != "progress"]
    assert names == ["started", "done"]
    log = (store.folder(first.ref) / "log.txt").read_text()
    assert "first counted" in log
    assert "a child printed this" in log
    started = time.monotonic()
    again = sweep(store, [third, second, first])
    assert set(again.skipped) == {first.ref, second.ref, third.ref}
    assert again.done == ()
    assert time.monotonic() - started < 2.0


def test_a_failure_stops_only_what_needs_it_and_is_retried_next_time(store: Store) -> None:
    user, exception, memory = (count(end, end=end) for end in ("user", "exception", "memory"))
    blocked = add("blocked", exception.ref)
    blocked_too = add("blocked too", blocked.ref)
    well = count("well")
    events: list[Event] = []
    summary = sweep(store, [user, exception, blocked, blocked_too, memory, well], on_event=events.append)
    assert summary.done == (well.ref,)
    assert summary.failed == {
        user.ref: "steps=3: too few",
        exception.ref: "ValueError: two lines",
        memory.ref: "out of memory: MemoryError",
    }
    assert summary.blocked == {blocked.ref: exception.ref, blocked_too.ref: blocked.ref}
    assert summary.exit_code == 1
    state = store.state(exception.ref)
    assert (state.status, state.error) == ("failed", "ValueError: two lines")
    assert "Traceback" in Path(state.log).read_text()
    assert [event.name for event in events if event.ref == blocked_too.ref] == ["blocked"]
    not_again = sweep(store, [exception, blocked], retry_failed=False)
    assert not_again.failed == {exception.ref: "ValueError: two lines"}
    (store.folder(exception.ref) / "mended").touch()
    again = sweep(store, [exception, blocked, blocked_too])
    assert again.done == (exception.ref, blocked.ref, blocked_too.ref)
    assert store.result(exception.ref).recorded["attempts"] == 2


def test_a_killed_worker_fails_its_job_and_the_rest_goes_on(store: Store) -> None:
    killed, well = count("killed", end="killed"), count("well")
    summary = sweep(store, [killed, well])
    assert summary.failed == {killed.ref: "killed by signal 9 (out of memory?)"}
    assert summary.done == (well.ref,)
    assert store.state(killed.ref).error == "killed by signal 9 (out of memory?)"


def test_children_of_a_killed_worker_hold_nobody_up(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    summary = sweep(store, [count("parent", end="orphan", ledger=str(ledger))])
    assert list(summary.failed.values()) == ["killed by signal 9 (out of memory?)"]
    assert not any(running(pid) for pid in pids(ledger))


def test_two_sweeps_at_once_share_the_work(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    options = {"ledger": str(ledger), "pause": 0.1}
    with sweeping(store, 8, **options) as one, sweeping(store, 8, **options) as two:
        counts = [[int(number) for number in process.communicate(timeout=60)[0].split()] for process in (one, two)]
        assert one.returncode == two.returncode == 0
    assert set(steps(ledger).values()) == {1}
    assert len(steps(ledger)) == 24
    assert sum(done for done, *_ in counts) == 8
    assert all(done > 0 and done + skipped == 8 for done, skipped, *_ in counts)


def test_a_job_held_by_another_process_is_left_to_it(store: Store) -> None:
    held, free = count("held"), count("free")
    store.prepare(held)
    claim = store.claim(held.ref)
    assert claim is not None

    def finish() -> None:
        until(lambda: store.state(free.ref).status == "done")
        claim.finish({"rows": [], "info": {"by": "the other"}, "recorded": {}})

    thread = threading.Thread(target=finish)
    thread.start()
    events: list[Event] = []
    summary = sweep(store, [held, free], on_event=events.append)
    thread.join()
    assert (summary.done, summary.skipped) == ((free.ref,), (held.ref,))
    assert "taken" in [event.name for event in events if event.ref == held.ref]


@pytest.mark.parametrize("moment", [0, 1, 3])
def test_kill_9_of_the_whole_sweep_then_again(store: Store, tmp_path: Path, moment: int) -> None:
    ledger = tmp_path / "ledger"
    with sweeping(store, 3, ledger=str(ledger), pause=0.25) as process:
        until(lambda: len(steps(ledger)) > moment)
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not any(running(pid) for pid in pids(ledger)), seconds=5)
    assert {store.state(spec.ref).status for spec in jobs(3)} & {"preempted", "lost"}
    summary = sweep(store, jobs(3))
    assert len(summary.done) + len(summary.skipped) == 3
    assert {store.result(spec.ref).rows[0]["value"] for spec in jobs(3)} == {3.0}
    assert len(steps(ledger)) <= 9


def test_workers_stuck_in_a_job_do_not_outlive_a_killed_parent(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with sweeping(store, 1, ledger=str(ledger), end="stuck") as process:
        until(lambda: len(steps(ledger)) == 3)
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not any(running(pid) for pid in pids(ledger)), seconds=5)
    assert store.state(jobs(1)[0].ref).status == "lost"


def test_ctrl_c_saves_and_the_same_command_resumes(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with sweeping(store, 3, ledger=str(ledger), pause=0.3) as process:
        until(lambda: len(steps(ledger)) >= 2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 130
    done, _, failed, interrupted = (int(number) for number in out.split())
    assert (done, failed) == (0, 0)
    assert interrupted == 2
    assert not any(running(pid) for pid in pids(ledger))
    assert [store.state(spec.ref).status for spec in jobs(3)] == ["preempted", "preempted", "missing"]
    summary = sweep(store, jobs(3))
    assert len(summary.done) == 3
    made = steps(ledger)
    assert all(made[f"job{job} {step}"] <= 1 for job in range(2) for step in range(3)), "no step was made twice"


def test_second_ctrl_c_kills(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with sweeping(store, 2, ledger=str(ledger), end="stuck") as process:
        until(lambda: len(steps(ledger)) == 6)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
        assert process.returncode == 130
    assert out.split() == ["0", "0", "0", "2"]
    assert {store.state(spec.ref).status for spec in jobs(2)} == {"lost"}
    assert not any(running(pid) for pid in pids(ledger))


def test_damaged_artifacts_are_made_anew_by_the_next_sweep(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(tmp_path, kinds=fake_jobs.KINDS, say=said.append)
    specs = jobs(4)
    sweep(store, specs)
    for spec, name in zip(specs, ("result.json", "config.yaml", "total"), strict=False):
        (store.folder(spec.ref) / name).write_bytes(b"{{")
    summary = sweep(store, specs)
    assert summary.done == tuple(spec.ref for spec in specs[:3])
    assert summary.skipped == (specs[3].ref,)
    assert len(said) == 3
    assert all(store.damage(spec.ref, contents=True) == "" for spec in specs)


def test_an_input_that_is_neither_planned_nor_done_blocks(store: Store) -> None:
    missing = count("missing")
    needy = add("needy", missing.ref)
    assert sweep(store, [needy]).blocked == {needy.ref: missing.ref}
    assert not store.root.exists()
    sweep(store, [missing])
    assert sweep(store, [needy]).done == (needy.ref,)


def test_refusals_create_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"execution\.device='gpu'"):
        run_local(store, jobs(1), device="gpu")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        sweep(Store(tmp_path / "file" / "outputs", kinds=fake_jobs.KINDS), jobs(1))
    with pytest.raises(UserError, match="a worker process could not start"):
        run_local(store, jobs(1), device="cpu", worker_arguments=("--kinds", "no_such_module:KINDS"))
    assert not store.root.exists()


def test_a_folder_named_analysis_is_not_imported_in_place_of_ours(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("analysis", "diamond_bench", "json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not mine')")
    monkeypatch.chdir(tmp_path)
    assert len(sweep(store, jobs(1)).done) == 1


def test_the_parent_imports_no_torch() -> None:
    code = (
        "import sys, diamond_bench.launch.local, diamond_bench.launch.progress, diamond_bench.launch.worker; print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-P", "-c", code], text=True) == "False\n"


def test_devices_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert worker_devices("auto", 0) == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert worker_devices("cuda:1", 0) == ["cuda:1"]
    assert worker_devices("cpu", 2) == ["cpu", "cpu"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert worker_devices("auto", 0) == ["auto"]


def test_lines_say_what_happens_to_whom() -> None:
    stream = io.StringIO()
    spec = count("a")
    with progress_display({spec.ref: "n=3 Breakout"}, stream) as display:
        display(Event("planned", done=1, total=3))
        display(Event("started", spec.ref, text="cpu"))
        display(Event("progress", spec.ref, 5, 10, "loss 0.1"))
        display(Event("progress", spec.ref, 6, 10, "loss 0.1"))
        display(Event("done", spec.ref))
        display(Event("failed", spec.ref, text="bad [thing]"))
        display.say("a line")
    assert stream.getvalue().splitlines() == [
        "[1/3] 1/3 jobs done",
        "[1/3] count n=3 Breakout: begun",
        "[1/3] count n=3 Breakout: 5/10 (50%), loss 0.1",
        "[2/3] count n=3 Breakout: done",
        f"[2/3] count n=3 Breakout: FAILED: bad [thing] (log of {spec.ref})",
        "[2/3] a line",
        "[2/3] 2/3 jobs done, 1 failed",
    ]
    assert [duration(seconds) for seconds in (45, 600, 12_000)] == ["45 s", "10 min", "3 h 20 min"]


def test_live_display_takes_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    spec = count("a")
    with progress_display({spec.ref: "n=3"}, stream) as display:
        for event in (
            Event("planned", done=0, total=1),
            Event("started", spec.ref),
            Event("progress", spec.ref, 5, 10, "loss [0.1]"),
            Event("said", spec.ref, text="resumed"),
            Event("failed", spec.ref, text="bad"),
        ):
            display(event)
    assert "count n=3: resumed" in stream.getvalue()
    assert "FAILED: bad" in stream.getvalue()
