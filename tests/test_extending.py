"""docs/extending.md, followed to the letter in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.timeout(900)  # seconds on a quiet machine, minutes on a busy one

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```\w+\n# ([^\n]+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)
SMALLER = ("network.depths=[1,1]", "network.channels=[8,8]", "network.attention=[false,false]", "training.num_steps=4")
"""The page's study as it is, at less cost: what it adds does not depend on these."""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("diamond_bench", "analysis", "paper_figures", "experiments", "docs/hooks"):
        shutil.copytree(ROOT / folder, copy / folder)  # bytecode too: its files keep their times, so that no process compiles them again
    for place, text in BLOCKS:
        name, _, registry = place.partition(": ")
        file = copy / name
        if not registry:
            assert not file.exists(), f"{name} is not new"
            file.parent.mkdir(exist_ok=True)  # a family of world models has a folder
            file.write_text(text)
            continue
        assert text.count("\n") == 1, "a registration is one line"
        source = file.read_text()
        (opening,) = re.findall(rf"^{registry}: .*\{{$", source, re.MULTILINE)
        file.write_text(source.replace(opening, f"{opening}\n{text.rstrip()}"))
    return copy


def run(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "diamond_bench", *words]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=800)


def test_every_new_thing_is_one_file_and_at_most_one_line(extended: Path) -> None:
    files = [place for place, _ in BLOCKS if ":" not in place]
    lines = [place for place, _ in BLOCKS if ":" in place]
    assert len(files) == 10
    assert len(lines) == 9


def test_the_page_s_study_runs_to_its_report(extended: Path) -> None:
    assert COMMANDS is not None
    for command in COMMANDS[1].strip().splitlines():
        words = command.split()[1:]
        done = run(extended, *words, *(() if "--dry-run" in words else SMALLER))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "lanes/two" in done.stdout
        assert ("metrics drift, edges" if "--dry-run" in words else "edges") in " ".join(done.stdout.split())
    (found,) = (extended / "outputs" / "studies" / "extended").glob("*/results.parquet")
    table = pd.read_parquet(found)
    drift = table[(table["metric"] == "drift") & table["seed"].notna()].set_index("variant")["value"]
    assert len(drift) == 14
    assert drift.nunique() == len(drift) - 3, "a step alone is Euler's in both solvers, and two families take none; all else differs"
    assert drift["paper, n=1"] == drift["adams-bashforth, n=1"]
    assert "dataset_return" not in set(table["metric"]), "a game without rewards has no returns"
    report = found.with_name("report")
    page = report.joinpath("index.html").read_text()
    assert "lanes/two" in page
    edges = table[table["metric"] == "edges"]
    assert len(edges[edges["seed"].notna()]) == 14
    assert {"copy-last-frame", "unrelated-frames"} <= set(edges["variant"])
    assert {"edges_final", "edges_best_of_k"} <= set(table["metric"])
    assert "edge error (difference) ↓" in page
    assert (report / "edges-lanes-two.png").is_file()
    nfe = table[table["metric"] == "nfe_per_frame"].set_index("variant")["value"]
    assert nfe["adams-bashforth, n=3"] == 3
    assert nfe["fading, n=3"] == 0
    assert nfe["regression, n=3"] == 1
    parameters = table[table["metric"] == "parameters"].set_index("variant")["value"]
    assert parameters["regression, n=1"] == 8 * (5 * 9 + 1) + 3 * (8 * 9 + 1)
    assert "fading" in page
    assert "regression" in page
    torch_free = "import sys, diamond_bench.studies.plan as p; p.plan_study('extended', ['scale=tiny']); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-P", "-c", torch_free], cwd=extended, env={**os.environ, "PYTHONPATH": str(extended)}, timeout=60
    )
    assert done.returncode == 0, "planning imported torch"


def test_the_page_s_families_and_metric_have_a_row_in_their_tables(extended: Path) -> None:
    tables = "from diamond_bench.envs.games import environments_table\nfrom diamond_bench.config.worlds import families_table"
    metrics = "import sys; sys.path.insert(0, 'docs/hooks'); from reference_pages import metric_table"
    code = f"{tables}\n{metrics}\nprint(environments_table(), families_table(), metric_table())"
    environment = {**os.environ, "PYTHONPATH": str(extended)}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=extended, env=environment, capture_output=True, text=True, check=True)
    assert "| `edges`, `edges_final`, `edges_best_of_k`, `edges_mean_of_k` | `edges` | mean absolute error of" in done.stdout
    assert "| `fade` | The last frame, which fades to black. |" in done.stdout
    assert "| `regression` | Two convolutions, trained on" in done.stdout
    assert "| `lanes/...` | two cars, one of which is steered | 24 x 40 | MultiDiscrete | no | yes |" in done.stdout


def test_a_mistyped_name_gets_the_nearest_of_the_new_ones(extended: Path) -> None:
    done = run(extended, "sweep", "extended", "scale=tiny", "conditioning.frames=diferences", "--dry-run")
    assert done.returncode == 2
    assert "differences" in done.stdout + done.stderr
