"""The built wheel, installed in a clean environment and used from a folder full of modules that bear our names."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from command_line import diamond_bench

ROOT = Path(__file__).parents[1]
_MINE = 'raise ImportError("the working folder\'s own package was imported")\n'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of a virtual environment that holds the wheel alone, and borrows the installed dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    borrowed = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("\n".join(borrowed))  # .pth files in there, of an editable install, are not read
    return folder / "bin" / "diamond-bench"


@pytest.fixture
def foreign_folder(tmp_path: Path) -> Path:
    """A user's folder with packages and studies of the same names as ours."""
    for package in ("analysis", "paper_figures", "diamond_bench"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(_MINE)
    (tmp_path / "experiments").mkdir()
    for study in ("sampling_steps", "my_own"):
        (tmp_path / "experiments" / f"{study}.yaml").write_text("not: a study\n")
    return tmp_path


def test_the_wheel_holds_configs_and_studies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    conf = {
        f"diamond_bench/conf/{f.relative_to(ROOT / 'diamond_bench' / 'conf')}" for f in (ROOT / "diamond_bench" / "conf").rglob("*.yaml")
    }
    studies = {f"diamond_bench/experiments/{file.name}" for file in (ROOT / "experiments").glob("*.yaml")}
    modules = {str(f.relative_to(ROOT)) for top in ("diamond_bench", "analysis", "paper_figures") for f in (ROOT / top).rglob("*.py")}
    assert len(conf) > 10
    assert len(studies) > 1
    assert not (conf | studies | modules) - names
    assert not {name for name in names if name.startswith(("tests/", "experiments/"))}


def test_the_main_job_runs_from_the_wheel(installed: Path, foreign_folder: Path, tiny_store: Path) -> None:
    """And gives the very numbers that the checkout gave."""
    shown = diamond_bench("studies", cwd=foreign_folder, script=installed).stdout
    assert "sampling_steps" in shown
    assert "my_own" not in shown

    done = diamond_bench("sweep", "sampling_steps", "scale=tiny", cwd=foreign_folder, script=installed)
    assert "7/7 jobs done" in done.stderr
    store = foreign_folder / "outputs"
    assert recorded(store)["versions"]["diamond-bench"]
    assert recorded(store)["commit"] is None  # of an installed package nobody knows it
    study = Path("studies/sampling_steps/tiny")
    kept = [f"{figure}-Breakout.{suffix}" for figure in ("drift", "trajectories", "quality") for suffix in ("png", "pdf")]
    for name in ("plan.json", "results.parquet", "report/summary.csv", *(f"report/{name}" for name in kept)):
        assert (store / study / name).stat().st_size > 0
    files = ["model.safetensors", "arrays.npz", "frames.npz", "main_data.hdf5"]
    ours, theirs = (sorted(path.relative_to(root) for name in files for path in root.rglob(name)) for root in (store, tiny_store))
    assert ours == theirs
    assert len(ours) == 3 + 5 + 5 + 2  # milestones, evaluations (twice), splits
    assert not [name for name in ours if (store / name).read_bytes() != (tiny_store / name).read_bytes()]
    assert rows(store) == rows(tiny_store)


def recorded(store: Path) -> dict[str, object]:
    (result,) = store.glob("train_world_model/*/result.json")
    found: dict[str, object] = json.loads(result.read_text())["recorded"]
    return found


def rows(store: Path) -> list[dict[str, object]]:
    """All numbers that a second run must reproduce."""
    results = [json.loads(file.read_text()) for file in sorted(store.glob("*/*/result.json"))]
    return [{"job": result["id"], **row} for result in results for row in result["rows"] if not row["measured"]]
