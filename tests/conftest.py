"""What all tests share: one thread, the built wheel in a clean environment, and stores in which jobs ran at test scale."""

import compileall
import contextlib
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: at these sizes, two threads on a busy machine take three times as long
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # and where a job has two after all, they do not wait by spinning: thirty times as long

import forked
import pytest
from command_line import PROFILE, ROOT, diamond_bench, in_this_process
from shared_folders import listing, shared_folder

os.fsync = lambda descriptor: None  # type: ignore[misc]  # a flush to the disk takes 15 ms, and no test cuts the power
gc.disable()  # while modules are imported: their objects stay
_IMPORTED_BY_JOBS = ("torch._dynamo",)
"""Slow modules that the first optimizer of a process imports."""
_LONG = (
    "test_checks",
    "test_docs",
    "test_extending",
    "test_state_study",
    "test_train_agent",
    "test_trained_families",
    "test_wide_games",
    "test_worlds",
)
_MANY = 50
"""Tests of a run from which on importing those early pays off."""


_NOT_COMPILED = re.compile(
    "site-packages/(fontTools|mypyc?|narwhals|networkx|numpy/distutils|pip|playwright|pydantic|pygments/lexers|seaborn|setuptools|"
    "statsmodels|sympy/(parsing|physics|stats)|torch/(_inductor|_vendor|testing)|torchgen|torchvision/(datasets|models)|.*/tests?)/"
)
"""Packages of which the tests import little or nothing."""


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the installed packages on all cores before the processes of pytest-xdist start, where pip did not (`--no-compile`)."""
    torch = importlib.util.find_spec("torch")
    if config.getoption("numprocesses", None) and torch is not None and torch.cached is not None and not Path(torch.cached).exists():
        compileall.compile_dir(sysconfig.get_path("purelib"), rx=_NOT_COMPILED, quiet=2, workers=0)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Splits the rewriting of asserts, seven seconds of work, among the processes of pytest-xdist.

    Each imports another third of the modules first. It finds the rest as bytecode that the others have written.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if isinstance(collector, pytest.Session) and worker is not None and [Path(name).name for name in collector.config.args] == ["tests"]:
        sys.dont_write_bytecode = False
        names = sorted(file.stem for file in Path(__file__).parent.glob("test_*.py"))
        first = len(names) * int(worker.removeprefix("gw")) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        for name in (*names[first:], *names[:first]):
            with contextlib.suppress(Exception, pytest.skip.Exception):  # collection raises it again, and reports it
                importlib.import_module(name)


def _time_briefly() -> None:
    """Profiles in forked workers take the least number of timings, and small matrix products."""
    if "diamond_bench.profiling.profile" in sys.modules:
        from diamond_bench.profiling import machine, profile

        machine._SIDES["cpu"] = (256, 512)
        profile.alternate = partial(profile.alternate, enough=0.01)  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Forks the template of workers when all modules of tests are imported, and no test has run."""
    runs = bool(getattr(session, "items", []))  # not where other processes run the tests
    if runs and len(session.items) > _MANY:
        for name in _IMPORTED_BY_JOBS:
            importlib.import_module(name)
    gc.freeze()  # before the fork: a worker collects garbage after each job, and would look at all modules of the tests
    gc.enable()
    if runs:
        forked.start_template(_time_briefly)
    try:
        return (yield)
    finally:
        forked.end_template()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs long files early, so that none runs alone at the end, and spreads those that wait for a cluster among those that compute."""
    files = dict.fromkeys(item.path for item in items)
    waiting = sorted((file for file in files if file.parent.name == "slurm"), reverse=True)  # the longest is the last by name
    computing = sorted((file for file in files if file not in waiting), key=lambda file: file.stem not in _LONG)
    apart = len(computing) // (len(waiting) + 1)
    places = {file: (n, 1) for n, file in enumerate(computing)} | {file: (n * apart, 0) for n, file in enumerate(waiting)}
    items.sort(key=lambda item: places[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Back to one thread: a test that ran an attempt at a job in this process leaves torch, and our children, with the job's number."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def simulated_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Simulates what the intervals of a matrix of scores attain once for all processes, with 60 repetitions instead of 500.

    A process remembers only what it simulated. test_aggregates.py tests the simulation itself.
    """
    from analysis.coverage import Attained
    from paper_figures import attained

    simulate = attained._simulated

    def simulated(scores: bytes, shape: tuple[int, ...]) -> Mapping[str, Attained]:
        def save(folder: Path) -> None:
            found = simulate(scores, shape)
            (folder / "attained.json").write_text(json.dumps({name: astuple(of) for name, of in found.items()}))

        name = f"attained-{hashlib.sha256(repr(shape).encode() + scores).hexdigest()[:16]}"
        saved = json.loads((shared_folder(tmp_path_factory, name, save) / "attained.json").read_text())
        return {name: Attained(*of) for name, of in saved.items()}

    with patch.object(attained, "_REPETITIONS", 60), patch.object(attained, "_simulated", simulated):
        yield


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out but not rendered to files, which takes most of their time: an empty picture stands for each."""
    from matplotlib.figure import Figure
    from PIL import Image

    def stand_in(figure: Figure, file: Any, format: str | None = None, **options: object) -> None:
        Image.new("RGB", (900, 300)).save(file, format=format)

    monkeypatch.setattr(Figure, "savefig", stand_in)


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked from a process that has imported torch (forked.py). Each saves seconds of imports."""
    monkeypatch.setattr("diamond_bench.launch.process.subprocess", forked.PROCESSES)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""

    def build(folder: Path) -> None:
        command = [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)

    (found,) = shared_folder(tmp_path_factory, "wheel", build).glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of a virtual environment that holds the wheel alone, and borrows the installed dependencies."""

    def install(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel)]
        subprocess.run(pip, check=True, capture_output=True, text=True)
        site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        borrowed = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (site / "borrowed.pth").write_text("\n".join(borrowed))  # .pth files in there, of an editable install, are not read

    return shared_folder(tmp_path_factory, "environment", install) / "bin" / "diamond-bench"


@pytest.fixture(scope="session")
def tiny_store(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store in which the wheel swept `sampling_steps scale=tiny`, from a folder of modules with our names.

    Of all tests, in all workers. Read it, and copy it before changing it: who changes it fails.
    """

    def sweep(folder: Path) -> None:
        foreign_folder(folder)
        done = diamond_bench("sweep", "sampling_steps", "scale=tiny", cwd=folder, script=installed)
        assert "7/7 jobs done" in done.stderr

    yield from unchanged(shared_folder(tmp_path_factory, "swept", sweep) / "outputs")


@pytest.fixture(scope="session")
def trained_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store in which the documentation's `train` ran at scale tiny; beside it, in `printed`, what that said. Read it, or copy it."""

    def train(folder: Path) -> None:
        done = in_this_process("train", "game=Breakout", "seed=0", "scale=tiny", cwd=folder)
        (folder / "printed").write_text(done.stdout + done.stderr)

    yield from unchanged(shared_folder(tmp_path_factory, "trained", train) / "outputs")


@pytest.fixture(scope="session")
def profiled_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store that holds one small profile, compared with plain. The folder above it holds the output in `printed.json` and `said`."""

    def profile(folder: Path) -> None:
        done = in_this_process(*PROFILE, "--compare", "plain", "--json", cwd=folder)
        (folder / "printed.json").write_text(done.stdout)
        (folder / "said").write_text(done.stderr)

    yield from unchanged(shared_folder(tmp_path_factory, "profiled", profile) / "outputs")


def unchanged(store: Path) -> Iterator[Path]:
    """Hands out a store that is only to be read."""
    before = listing(store)
    yield store
    assert listing(store) == before, f"a test changed the store of all tests, {store}"


def foreign_folder(folder: Path) -> Path:
    """Puts packages and studies of the same names as ours into a user's folder; ours must be used all the same."""
    for package in ("analysis", "paper_figures", "diamond_bench"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text('raise ImportError("the working folder\'s own package was imported")\n')
    (folder / "experiments").mkdir()
    for study in ("sampling_steps", "my_own"):
        (folder / "experiments" / f"{study}.yaml").write_text("not: a study\n")
    return folder
