"""`doctor`: what is missing on a machine, what that costs, and whether the main job can run."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, in_this_process

from diamond_bench import doctor
from diamond_bench.doctor import Check, blocked
from diamond_bench.store.artifacts import Store

TORCH = {"version": "2.8.0", "capability": "AVX2", "gpus": []}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without GPU, SLURM, LaTeX and display, with the weights that the main job needs. Torch is not imported."""
    monkeypatch.setattr(doctor, "ask_torch", lambda: TORCH)
    monkeypatch.setattr(doctor, "absent_commands", lambda: ["sbatch"])
    monkeypatch.setattr(doctor, "has_gpu", lambda: False)
    monkeypatch.setattr(doctor, "has_compiler", lambda device: False)
    monkeypatch.setattr(shutil, "which", lambda name, **options: None)
    monkeypatch.setattr(doctor, "free_bytes", lambda folder: 10**12)
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(variable, raising=False)
    found = [status if status.name != "lpips-alex" else with_file(status, tmp_path) for status in doctor.weights_status()]
    monkeypatch.setattr(doctor, "weights_status", lambda: found)
    return tmp_path / "outputs"


def with_file(status: Any, folder: Path) -> Any:
    return status.__class__(status.name, status.metric, "found", folder / "weights", 1, "", status.command)


def by_part(checks: list[Check]) -> dict[str, Check]:
    return {check.part: check for check in checks}


def test_a_machine_that_can_run_the_main_job_says_what_else_is_missing(machine: Path) -> None:
    checks = doctor.examine(machine)
    assert blocked(checks) == []
    found = by_part(checks)
    missing = {part for part, check in found.items() if check.state == "missing" and not part.startswith(("packages", "weights"))}
    assert missing == {"GPU", "C++ compiler", "SLURM", "LaTeX", "browser"}
    assert all(check.without and check.get for check in checks if check.state == "missing")
    assert "cluster=slurm" in found["SLURM"].without
    assert found["C++ compiler"].get == "apt install g++"
    assert re.match(r"\d+ jobs to run, \d.* to .*, .* GB$", found["main job"].found)
    assert not machine.exists()


@pytest.mark.parametrize(
    ("broken", "part", "get"),
    [
        ({"ask_torch": lambda: {"error": "no libcudart"}}, "torch", "pip install"),
        ({"free_bytes": lambda folder: 1000}, "disk", "output_dir="),
        (
            {"weights_status": lambda: [status for status in WEIGHTS if status.name == "lpips-alex"]},
            "weights lpips-alex",
            "weights fetch lpips",
        ),
    ],
    ids=["torch", "disk", "weights"],
)
def test_what_the_main_job_needs_is_named(
    broken: dict[str, Any], part: str, get: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, function in broken.items():
        monkeypatch.setattr(doctor, name, function)
    (wanting,) = blocked(doctor.examine(machine))
    assert wanting.part == part
    assert get in wanting.get


WEIGHTS = [doctor.weights_status()[0].__class__("lpips-alex", "lpips", "missing", None, None, None, "diamond-bench weights fetch lpips")]


def test_a_store_that_cannot_be_written_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(store: Store) -> None:
        raise doctor.UserError(f"{store.root} cannot be written")

    monkeypatch.setattr(Store, "require_writable", refuse)
    (wanting,) = blocked(doctor.examine(machine))
    assert wanting == Check(
        "store", "missing", f"{machine} cannot be written", "nothing can be run", "name another folder with output_dir=FOLDER", True
    )


def test_missing_and_old_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = [
        "numpy",
        "typer>=999",
        "no-such-package>=2",
        'no-such-extra; extra == "docs"',
        'numpy; extra == "bench"',
        "x; python_version < '3'",
    ]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: stated)
    found = by_part(list(doctor.libraries()))
    assert found["library no-such-package"].get == "pip install 'no-such-package>=2'"
    assert found["library typer"].found.startswith("version ")
    assert [check.part for check in blocked(list(found.values()))] == ["library typer", "library no-such-package"]
    assert (found["packages [docs]"].state, found["packages [bench]"].state) == ("missing", "ok")


def test_every_optional_group_says_what_it_is_for() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert doctor._EXTRAS.keys() == groups.keys()


def test_a_silent_controller_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, **options: Any) -> Any:
        raise subprocess.TimeoutExpired("sinfo", 5)

    monkeypatch.setattr(doctor, "absent_commands", list)
    monkeypatch.setattr(doctor.subprocess, "run", run)
    assert doctor.slurm().state == "limited"


def test_the_exit_code_says_whether_the_main_job_can_run(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = machine.parent
    done = in_this_process("doctor", cwd=folder)
    assert done.stdout.splitlines()[0] == "The main job can run here: diamond-bench sweep sampling_steps scale=smoke"
    monkeypatch.setattr(doctor, "ask_torch", lambda: {"error": "no libcudart"})
    done = in_this_process("doctor", cwd=folder, exit_code=1)
    assert done.stdout.splitlines()[0] == "The main job cannot run here. It needs: torch."
    rows = json.loads(in_this_process("doctor", "--json", cwd=folder, exit_code=1).stdout)
    assert [row["part"] for row in rows if row["required"] and row["state"] == "missing"] == ["torch"]
