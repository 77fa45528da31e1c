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
from diamond_bench.launch.local import run_local
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
        ([THREADS.format(2)], 1, False, ["1 job at a time in place of 2: jobs have 2 threads each, and this process may use 2 cores"]),
        ([THREADS.format(2), WORKERS.format(2)], 2, True, ["cluster.num_workers=2: 2 jobs run at once with 2 threads each"]),
        ([THREADS.format(2), WORKERS.format(1)], 1, False, []),
        ([THREADS.format(3), WORKERS.format(1)], 1, True, ["execution.num_threads=3: this process may use 2 cores"]),
        ([WORKERS.format(3)], 3, True, ["cluster.num_workers=3: 3 jobs run at once with 1 thread each"]),
        ([WORKERS.format(0), THREADS.format(2)], 0, False, []),
    ],
)
def test_jobs_that_run_at_once_fit_the_cores(tokens: list[str], number: int, crowded: bool, notes: list[str]) -> None:
    found = of_study(*tokens)
    assert (found.number, found.crowded) == (number, crowded)
    assert len(found.notes) == len(notes)
    assert all(note.startswith(start) for note, start in zip(found.notes, notes, strict=True)), found.notes


def test_the_notes_name_what_to_give() -> None:
    assert of_study(THREADS.format(2)).notes[0].endswith("To run 2 at once, give cluster.num_workers=2")
    assert of_study(THREADS.format(2), WORKERS.format(2)).notes[0].endswith("; use cluster.num_workers=1")
    assert of_study(THREADS.format(3), WORKERS.format(1)).notes[0].endswith("; use execution.num_threads=2")


def test_only_jobs_that_can_run_at_once_count() -> None:
    chain = plan_train(["scale=smoke", THREADS.format(2)])
    assert workers(chain, list(chain.jobs)) == Workers(2), "an evaluation waits for its training, and random play has no network"
    plan = plan_study("sampling_steps", ["scale=smoke", THREADS.format(2)])
    evaluations = [ref for ref in plan.jobs if ref.kind == "evaluate_world_model"]
    assert workers(plan, evaluations[:1]) == Workers(2)
    assert workers(plan, evaluations[:2]).number == 1
    assert workers(plan, []) == Workers(2)


def test_more_cores_take_more_jobs() -> None:
    plan = plan_study("sampling_steps", ["scale=smoke", THREADS.format(2)])
    assert workers(plan, list(plan.jobs), cores=4) == Workers(2)
    several = plan_study("sampling_steps", ["scale=smoke", "training.accumulation=2", "execution.num_processes=2"])
    trainings = [ref for ref in several.jobs if ref.kind == "train_world_model"]
    assert workers(several, trainings, cores=2).number == 1, "a training of two processes uses two cores"


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


@pytest.mark.parametrize(("options", "expected"), [((), "None"), (("--sleep-idle-threads",), "PASSIVE")])
def test_idle_threads_of_crowded_workers_sleep(
    options: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    store, job = Store(tmp_path, kinds=fake_jobs.KINDS, say=lambda text: None), count("waits", steps=1)
    run_local(store, [job], device="cpu", worker_arguments=("--kinds", "fake_jobs:KINDS", *options))
    assert f"OMP_WAIT_POLICY={expected}\n" in Path(store.state(job.ref).log).read_text()
