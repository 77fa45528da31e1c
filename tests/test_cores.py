"""Workers share the cores of a CPU: how many run at once, what the user reads about it, and that idle threads do not spin."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import fake_jobs
import pytest
from command_line import in_this_process
from fake_jobs import count

from diamond_bench.launch import cores
from diamond_bench.launch.cores import Workers, workers
from diamond_bench.launch.events import Event
from diamond_bench.launch.local import run_local
from diamond_bench.launch.threads import NO_LIMIT, ThreadLimit
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import plan_study
from diamond_bench.studies.single import plan_train

THREADS = "execution.num_threads={}"
WORKERS = "cluster.num_workers={}"


@pytest.fixture(autouse=True)
def two_cores_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "has_gpu", lambda: False)
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)


def of_study(*tokens: str) -> Workers:
    plan = plan_study("sampling_steps", ["scale=smoke", *tokens])
    return workers(plan, list(plan.jobs))


@pytest.mark.parametrize(
    ("tokens", "number", "crowded", "notes"),
    [
        ([], 2, False, []),
        ([THREADS.format(2)], 1, False, ["jobs with 2 threads run one at a time on 2 cores; to run"]),
        ([THREADS.format(2), WORKERS.format(2)], 2, True, ["cluster.num_workers=2 lets 2 jobs run at once, with up to 4 threads, and"]),
        ([THREADS.format(2), WORKERS.format(1)], 1, False, []),
        ([THREADS.format(3), WORKERS.format(1)], 1, True, ["execution.num_threads=3: this process may use 2 cores"]),
        ([WORKERS.format(3)], 3, True, ["cluster.num_workers=3 lets 3 jobs run at once, with up to 3 threads, and"]),
        ([WORKERS.format(0), THREADS.format(2)], 0, False, []),
    ],
)
def test_jobs_that_run_at_once_fit_the_cores(tokens: list[str], number: int, crowded: bool, notes: list[str]) -> None:
    found = of_study(*tokens)
    assert (found.number, found.crowded) == (number, crowded)
    assert len(found.notes) == len(notes)
    assert all(note.startswith(start) for note, start in zip(found.notes, notes, strict=True)), found.notes


def test_the_notes_name_what_to_give() -> None:
    assert of_study(THREADS.format(2)).notes[0].endswith("to run 2 jobs at once, give cluster.num_workers=2")
    assert of_study(THREADS.format(2), WORKERS.format(2)).notes[0].endswith("; use cluster.num_workers=1")
    assert of_study(THREADS.format(3), WORKERS.format(1)).notes[0].endswith("; use execution.num_threads=2")


def test_only_jobs_that_are_missing_count() -> None:
    plan = plan_study("sampling_steps", ["scale=smoke", THREADS.format(2)])
    evaluations = [ref for ref in plan.jobs if ref.kind == "evaluate_world_model"]
    assert workers(plan, evaluations[:1]) == Workers(2)
    assert workers(plan, evaluations[:2]).number == 1
    assert workers(plan, []) == Workers(2)


def test_the_jobs_of_one_training_follow_each_other_so_they_need_no_note() -> None:
    plan = plan_train(["game=Breakout", "scale=smoke", "execution.num_threads=2"])
    assert len(plan.jobs) > 1
    assert workers(plan, list(plan.jobs)) == Workers(2)


def test_more_cores_take_more_jobs() -> None:
    plan = plan_study("sampling_steps", ["scale=smoke", THREADS.format(2)])
    assert workers(plan, list(plan.jobs), cores=4) == Workers(2)
    several = plan_study("sampling_steps", ["scale=smoke", "training.accumulation=2", "execution.num_processes=2"])
    trainings = [ref for ref in several.jobs if ref.kind == "train_world_model"]
    assert workers(several, trainings, cores=2).number == 1, "a training of two processes uses two cores"
    assert workers(several, trainings[:1], cores=2) == Workers(2)


def test_jobs_with_one_thread_run_at_once_next_to_jobs_with_two() -> None:
    mixed = plan_study("sampling_steps", ["scale=smoke", "training.accumulation=2", "execution.num_processes=2"])
    found, evaluations = workers(mixed, list(mixed.jobs)), [ref for ref in mixed.jobs if ref.kind == "evaluate_world_model"]
    assert (found.number, found.crowded) == (2, False)
    assert found.notes == ("jobs with 2 threads run one at a time on 2 cores; to run 2 jobs at once, give cluster.num_workers=2",)
    training = next(ref for ref in mixed.jobs if ref.kind == "train_world_model")
    fits, collection = found.limit.fits, next(ref for ref in mixed.jobs if ref.kind == "collect_dataset")
    assert fits(evaluations[0], evaluations[1:2])
    assert not fits(evaluations[0], evaluations[1:3])
    assert not fits(evaluations[0], [training])
    assert not fits(training, evaluations[:1])
    assert fits(training, [])
    assert fits(training, [collection])
    assert fits(collection, [training])


def test_a_sweep_runs_at_once_only_jobs_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs of one thread, then one of three threads, then two of one thread: only the pairs share two cores."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    store = Store(tmp_path, kinds=fake_jobs.KINDS, say=lambda text: None)
    specs = [count(name, steps=10, pause=0.03) for name in ("a", "b", "large", "c", "d")]
    threads = {spec.ref: 3 if spec.config.name == "large" else 1 for spec in specs}
    running, sets = set[str](), set[tuple[str, ...]]()

    def see(event: Event) -> None:
        if event.ref is not None and event.name in ("started", "done"):
            (running.add if event.name == "started" else running.discard)(names[event.ref])
            sets.add(tuple(sorted(running)))

    names = {spec.ref: spec.config.name for spec in specs}
    limit = ThreadLimit(2, threads)
    summary = run_local(
        store, specs, num_workers=3, device="cpu", on_event=see, limit=limit, worker_arguments=("--kinds", "fake_jobs:KINDS")
    )
    assert not summary.failed
    assert len(summary.done) == 5
    assert {found for found in sets if "large" in found} == {("large",)}
    assert max(len(found) for found in sets) == 2


def test_jobs_on_a_gpu_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_study(THREADS.format(2), "execution.device=cuda") == Workers(2)
    monkeypatch.setattr(cores, "has_gpu", lambda: True)
    assert of_study(THREADS.format(2)) == Workers(2)
    assert of_study(THREADS.format(2), "execution.device=cpu").number == 1


@pytest.mark.parametrize(("given", "number", "arguments"), [((), 1, ()), ((WORKERS.format(2),), 2, ("--sleep-idle-threads",))])
def test_the_plan_and_the_run_say_it_and_do_it(
    given: tuple[str, ...], number: int, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[dict[str, object]] = []

    def run(*jobs: object, **how: object) -> SimpleNamespace:
        taken.append(how)
        return SimpleNamespace(failed={}, blocked={}, exit_code=1, stopped=False)

    monkeypatch.setattr(importlib.import_module("diamond_bench.launch.local"), "run_local", run)
    tokens = ("sampling_steps", "scale=smoke", "metrics=[drift]", THREADS.format(2), *given)
    note = f"note: {of_study(THREADS.format(2), *given).notes[0]}\n"
    assert note in in_this_process("sweep", *tokens, "--dry-run", cwd=tmp_path).stdout
    for_programs = in_this_process("sweep", *tokens, "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(for_programs.stdout)
    assert note in for_programs.stderr
    assert note in in_this_process("sweep", *tokens, cwd=tmp_path, exit_code=1).stderr
    assert [(how["num_workers"], how["worker_arguments"]) for how in taken] == [(number, arguments)]
    assert [how["limit"] == NO_LIMIT for how in taken] == [bool(given)]


@pytest.mark.parametrize(("options", "expected"), [((), "None"), (("--sleep-idle-threads",), "PASSIVE")])
def test_idle_threads_of_crowded_workers_sleep(
    options: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    store, job = Store(tmp_path, kinds=fake_jobs.KINDS, say=lambda text: None), count("waits", steps=1)
    run_local(store, [job], device="cpu", worker_arguments=("--kinds", "fake_jobs:KINDS", *options))
    assert f"OMP_WAIT_POLICY={expected}\n" in Path(store.state(job.ref).log).read_text()
