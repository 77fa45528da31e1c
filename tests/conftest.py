"""What all tests share: one thread, the built wheel in a clean environment, and a store in which it ran the main job at test scale."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: at these sizes, two threads on a busy machine take three times as long

import pytest
from command_line import ROOT, diamond_bench


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of a virtual environment that holds the wheel alone, and borrows the installed dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    borrowed = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("\n".join(borrowed))  # .pth files in there, of an editable install, are not read
    return folder / "bin" / "diamond-bench"


@pytest.fixture(scope="session")
def tiny_store(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the wheel swept `sampling_steps scale=tiny`, from a folder of modules with our names.

    Read it, and copy it before changing it.
    """
    folder = foreign_folder(tmp_path_factory.mktemp("tiny"))
    done = diamond_bench("sweep", "sampling_steps", "scale=tiny", cwd=folder, script=installed)
    assert "7/7 jobs done" in done.stderr
    return folder / "outputs"


def foreign_folder(folder: Path) -> Path:
    """Puts packages and studies of the same names as ours into a user's folder; ours must be used all the same."""
    for package in ("analysis", "paper_figures", "diamond_bench"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text('raise ImportError("the working folder\'s own package was imported")\n')
    (folder / "experiments").mkdir()
    for study in ("sampling_steps", "my_own"):
        (folder / "experiments" / f"{study}.yaml").write_text("not: a study\n")
    return folder
