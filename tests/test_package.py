"""The built wheel, installed in a clean environment and used from a folder full of modules that bear our names."""

import json
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
from command_line import ROOT, diamond_bench, in_this_process

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("unrendered"),
]  # a sweep at scale tiny: seconds on a quiet machine, minutes on a busy one
STUDY = Path("studies/sampling_steps/tiny")


def test_the_extra_dev_includes_every_other_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (own,) = [requirement for requirement in extras["dev"] if requirement.startswith("diamond-bench[")]
    assert set(own.removeprefix("diamond-bench[").removesuffix("]").split(",")) == set(extras) - {"dev"}


KEPT = (".py", ".yaml", ".csv", ".typed", ".css", ".html", ".js", ".svg")
"""Endings of the files that the wheel must hold."""


def test_the_wheel_holds_configs_studies_and_pages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = [file for top in ("diamond_bench", "analysis", "paper_figures") for file in (ROOT / top).rglob("*")]
    expected = {file.relative_to(ROOT).as_posix() for file in packages if file.suffix in KEPT}
    studies = {f"diamond_bench/experiments/{file.name}" for file in (ROOT / "experiments").glob("*.yaml")}
    assert len(studies) > 1
    assert {
        "diamond_bench/py.typed",
        "diamond_bench/conf/sampler/schedule/karras.yaml",
        "analysis/published/published_curves.csv",
        "diamond_bench/report/page.css",
        *(f"diamond_bench/play/page/{name}" for name in ("index.html", "play.css", "play.js", "icon.svg")),
    } <= expected
    assert not (expected | studies) - names
    assert not {name for name in names if name.startswith(("tests/", "experiments/"))}


def test_the_wheel_shows_its_own_studies(installed: Path, tiny_store: Path) -> None:
    shown = diamond_bench("studies", cwd=tiny_store.parent, script=installed).stdout
    assert "sampling_steps" in shown
    assert "my_own" not in shown


def test_the_main_job_runs_from_the_wheel(tiny_store: Path) -> None:
    figures = [f"{figure}-Breakout.{suffix}" for figure in ("drift", "trajectories", "quality") for suffix in ("png", "pdf")]
    for name in ("plan.json", "results.parquet", "report/summary.csv", *(f"report/{name}" for name in figures)):
        assert (tiny_store / STUDY / name).stat().st_size > 0
    counts = {name: len(list(tiny_store.rglob(name))) for name in ("model.safetensors", "arrays.npz", "rollout.mp4", "main_data.hdf5")}
    assert counts == {"model.safetensors": 3, "arrays.npz": 5, "rollout.mp4": 5, "main_data.hdf5": 2}
    results = [json.loads(file.read_text()) for file in tiny_store.glob("*/*/result.json")]
    assert len(results) == 7
    assert all(result["recorded"]["commit"] is None for result in results)  # nobody knows it of an installed package
    assert all(result["recorded"]["versions"]["diamond-bench"] for result in results)


def test_the_checkout_repeats_damaged_jobs_with_the_same_numbers(tiny_store: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_store.parent, tmp_path / "folder")
    one = min((folder / "outputs").glob("evaluate_world_model/*"))
    before = tiny_store / one.relative_to(folder / "outputs")
    (one / "result.json").write_text('{"rows": [')
    (shown,) = json.loads(in_this_process("status", "--json", cwd=folder).stdout)
    assert shown["counts"]["damaged"] == 1
    done = in_this_process("sweep", "sampling_steps", "scale=tiny", cwd=folder)
    assert "6/7 jobs done" in done.stderr
    assert "set aside" in done.stderr
    assert (one / "arrays.npz").read_bytes() == (before / "arrays.npz").read_bytes()
    assert rows(one) == rows(before)


def rows(job: Path) -> list[dict[str, object]]:
    """The numbers of a job that a second run must reproduce."""
    return [row for row in json.loads((job / "result.json").read_text())["rows"] if not row["measured"]]
