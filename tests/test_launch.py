"""Sweeps on this machine, with real worker processes: shared, killed, stopped, resumed; nothing lost, nothing done twice."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fake_jobs
import pytest
from fake_jobs import add, count

from diamond_bench.errors import UserError
from diamond_bench.launch.events import Event
from diamond_bench.launch.interrupts import Interrupts
from diamond_bench.launch.local import _Sweep, run_local
from diamond_bench.launch.process import WorkerProcess
from diamond_bench.launch.progress import progress_display
from diamond_bench.launch.summary import Summary
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import KINDS as STUDY_KINDS

TESTS = Path(__file__).parent
WORKER = ("--kinds", "fake_jobs:KINDS", "--grace", "1")

SWEEP = """
import fake_jobs, json, sys
from diamond_bench.launch.local import run_local
from diamond_bench.store.artifacts import Store
store = Store(sys.argv[1], kinds=fake_jobs.KINDS)
options = json.loads(sys.argv[2])
specs = [fake_jobs.count(f"job{i}", **options) for i in range(int(sys.argv[3]))]
killed = lambda event: print(event.text) if event.name == "interrupted" and "killed" in event.text else None
arguments = ("--kinds", "fake_jobs:KINDS", "--grace", "1")
summary = run_local(store, specs, num_workers=2, device="cpu", worker_arguments=arguments, on_event=killed)
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


def test_each_job_of_a_resumed_sweep_ends_once_with_two_workers(store: Store) -> None:
    first = count("first")
    second = [add(f"second{i}", first.ref) for i in range(2)]
    third = [add(f"third{i}", second[i].ref, pause=0.1) for i in range(2)]
    specs = [first, *second, *third]
    for done in ([first], second):
        sweep(store, done)
        offered = _Sweep(store, {spec.ref: spec for spec in specs}, lambda event: None)
        offered.look(retry_failed=True)
        assert offered.num_ready == 2
        assert {offered.next(), offered.next(), offered.next()} == {None, *(spec.ref for spec in (second if done == [first] else third))}
    events: list[Event] = []
    summary = sweep(store, specs, num_workers=2, on_event=events.append)
    assert sorted([*summary.done, *summary.skipped]) == sorted(spec.ref for spec in specs)
    assert sorted(event.ref for event in events if event.name == "done" and event.ref) == sorted(spec.ref for spec in third)


def test_a_ready_job_that_another_sweep_has_done_ends_once(store: Store) -> None:
    spec = count("a")
    shared = _Sweep(store, {spec.ref: spec}, lambda event: None)
    shared.look(retry_failed=True)
    sweep(store, [spec])
    shared.again(spec.ref)
    assert shared.next() is None
    shared.held[spec.ref] = (0.0, 1.0)
    shared.poll()
    shared.hold(spec.ref)
    assert (shared.next(), shared.held, shared.summary(stopped=False).skipped) == (None, {}, (spec.ref,))


def test_a_done_job_whose_input_failed_is_in_one_collection(store: Store) -> None:
    first = count("first")
    second = add("second", first.ref)
    sweep(store, [first, second])
    shutil.rmtree(store.folder(first.ref))
    store.prepare(first)
    store.claim(first.ref).fail("bad")  # type: ignore[union-attr]
    summary = sweep(store, [first, second], retry_failed=False)
    assert (summary.failed, summary.skipped, summary.blocked) == ({first.ref: "bad"}, (second.ref,), {})


@pytest.mark.parametrize(("num_workers", "processes"), [(0, 1), (2, 2)])
def test_workers_on_the_cpu(store: Store, tmp_path: Path, num_workers: int, processes: int) -> None:
    ledger = tmp_path / "ledger"
    specs = [count(f"job{i}", ledger=str(ledger), pause=0.15 * num_workers) for i in range(2)]
    stream = io.StringIO()
    with progress_display({spec.ref: spec.config.name for spec in specs}, stream) as display:
        summary = sweep(store, specs, num_workers=num_workers, on_event=display)
    assert len(summary.done) == 2
    assert len(pids(ledger)) == processes
    lines = stream.getvalue().splitlines()
    assert lines[0] == "0/2 jobs done, starting"
    assert re.fullmatch(r"2/2 jobs done in \d+ s", lines[-1])
    assert sum("done" in line for line in lines[1:-1]) == sum("started" in line for line in lines) == 2


def test_nothing_is_begun_before_a_worker_has_its_device(store: Store) -> None:
    seen: list[list[JobRef]] = []
    sweep(store, jobs(2), begin=lambda: seen.append(store.refs()))
    sweep(store, jobs(2), begin=lambda: seen.append([]))
    assert seen == [[], []]


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
    deadline = time.monotonic() + 10  # a killed child is gone only when the system got round to it
    while any(running(pid) for pid in pids(ledger)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_sweeps_at_once_share_the_work(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    options = {"ledger": str(ledger), "pause": 0.06}
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


@pytest.mark.parametrize("moment", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(3, marks=pytest.mark.slow)])
def test_kill_9_of_the_whole_sweep_then_again(store: Store, tmp_path: Path, moment: int) -> None:
    ledger = tmp_path / "ledger"
    with sweeping(store, 3, ledger=str(ledger), pause=0.12) as process:
        until(lambda: len(steps(ledger)) > moment)
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not any(running(pid) for pid in pids(ledger)), seconds=5)
    until(lambda: {store.state(spec.ref).status for spec in jobs(3)} & {"preempted", "lost"}, seconds=5)
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
    until(lambda: store.state(jobs(1)[0].ref).status == "lost", seconds=5)  # its last thread takes the lock with it


def test_ctrl_c_saves_and_the_same_command_resumes(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with sweeping(store, 3, ledger=str(ledger), pause=0.3) as process:
        until(lambda: len({step.split()[0] for step in steps(ledger)}) == 2)  # both workers are in their jobs
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
    built = steps(ledger)
    assert all(built[f"job{job} {step}"] <= 1 for job in range(2) for step in range(3)), "no step was made twice"


def test_second_ctrl_c_kills(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with sweeping(store, 2, ledger=str(ledger), end="stuck") as process:
        until(lambda: len(steps(ledger)) == 6)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.7)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
        assert process.returncode == 130
    assert out.splitlines() == ["killed before it could save"] * 2 + ["0 0 0 2"]
    assert {store.state(spec.ref).status for spec in jobs(2)} == {"lost"}
    assert not any(running(pid) for pid in pids(ledger))


def test_ctrl_c_leaves_a_long_step_before_which_nothing_is_unsaved(store: Store, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with sweeping(store, 1, ledger=str(ledger), pause=600) as process:
        until(lambda: len(steps(ledger)) == 1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
        assert process.returncode == 130
    assert store.state(jobs(1)[0].ref).status == "preempted"
    assert not any(running(pid) for pid in pids(ledger))


def test_ctrl_c_does_not_wait_for_a_worker_that_is_still_starting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts, calls = Interrupts(), list[str]()

    class Starting(WorkerProcess):
        def __init__(self, *options: object) -> None:
            self.ready, self.job = False, None
            interrupts.count = 1

        def kill(self) -> None:
            calls.append("kill")

        def reap(self) -> None: ...
        def retire(self) -> None: ...
        def wait(self, seconds: float) -> None:
            calls.append("wait")

    monkeypatch.setattr("diamond_bench.launch.local.WorkerProcess", Starting)
    assert sweep(store, jobs(1), interrupts=interrupts).stopped
    assert calls == ["kill", "wait"]


def test_the_next_sweep_repeats_damaged_jobs(tmp_path: Path) -> None:
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
    begun: list[None] = []
    begin = partial(begun.append, None)
    for device in ("gpu", "cuda:9"):
        with pytest.raises(UserError, match=rf"execution\.device='?{device}"):
            run_local(store, jobs(1), device=device, begin=begin)
    refused = ("--kinds", "fake_jobs:KINDS", "--device", "gpu")  # refused by the worker, as where the driver shows a GPU to nobody
    with pytest.raises(UserError, match=r"execution\.device='gpu'"):
        run_local(store, jobs(1), device="cpu", worker_arguments=refused, begin=begin)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        sweep(Store(tmp_path / "file" / "outputs", kinds=fake_jobs.KINDS), jobs(1))
    with pytest.raises(UserError, match="a worker process could not start"):
        run_local(store, jobs(1), device="cpu", worker_arguments=("--kinds", "no_such_module:KINDS"), begin=begin)
    assert not store.root.exists()
    assert not begun


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


def test_of_evaluations_of_one_training_the_longest_is_begun_first() -> None:
    from diamond_bench.launch.local import begin_order
    from diamond_bench.studies.plan import plan_study

    jobs = plan_study("sampling_steps", ["scale=tiny", "seeds=2"]).jobs
    order = begin_order(jobs, STUDY_KINDS)
    begun = [jobs[ref] for ref in sorted(order, key=lambda ref: order[ref])]
    assert [spec.config.sampler.num_steps for spec in begun if spec.kind == "evaluate_world_model"] == [10, 5, 3, 2, 1] * 2
    assert [spec.kind for spec in begun][:2] == ["collect_dataset", "train_world_model"], "the first training's evaluations do not wait"
