"""What the documentation says is so: its commands run, its links lead somewhere, its tables are complete.

Commands in code blocks marked `sh` are run at scale tiny in place of the scale that is written, and those that make new artifacts at
less cost still (dry runs as they are); `pytest -m slow` runs them literally. What `sweep` and `train` make at scale tiny is the store that
all tests share, made by these very commands: here they find it done. Commands run in this process, which saves seconds of imports each; the
jobs that they start run in workers of their own.
"""

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import yaml
from command_line import PROFILE, ROOT, diamond_bench, in_this_process
from test_floors import FLOORS

from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.results.table import COLUMNS
from diamond_bench.store.kinds import KINDS

PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = ("extending.md", "slurm.md")
"""test_extending.py follows the first page in a copy of the package. The second needs a cluster: tests/slurm/test_slurm_docs.py."""
TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials"]
"""Pages whose commands build on each other: each page is followed from its first command to its last."""
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")

Command = tuple[str, ...]

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("unrendered"),
]  # the shared store takes seconds on a quiet machine, minutes on a busy one


@cache
def text(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(kind: str, pages: Sequence[Path] = PAGES, elsewhere: bool = False) -> list[str]:
    """The code blocks of a kind in `pages`; `elsewhere` includes the pages whose commands are run elsewhere."""
    chosen = [page for page in pages if elsewhere or page.name not in ELSEWHERE]
    return [body for page in chosen for marked, body in _BLOCK.findall(page.read_text()) if marked == kind]


def commands(pages: Sequence[Path] = PAGES, elsewhere: bool = False) -> list[Command]:
    """Every diamond-bench command of `pages`, once, without the program's name; see `blocks`."""
    lines = [line for block in blocks("sh", pages, elsewhere) for line in block.splitlines()]
    parts = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return list(dict.fromkeys(tuple(words[1:]) for words in parts if words and Path(words[0]).name == "diamond-bench"))


def commands_at_test_scale(pages: Sequence[Path]) -> list[Command]:
    """The commands of `pages` at the size of tests."""
    return list(dict.fromkeys(map(at_test_scale, commands(pages))))


_REPEATS = ("data.", "evaluation.", "metrics=")
"""What a sweep says that shares no evaluation with the swept store: one number of denoising steps does for its mechanism."""
_SMALLER = {
    "profile": PROFILE[2:],
    "sweep": ("sampler.num_steps=1", "metrics=[drift]"),
}
"""What makes something anew at less cost than scale tiny; each unless the command says it itself."""


_LONG_PARTS = {"paper": ("all", "table5"), "evaluate": ("10", "2")}
"""Words of long commands, and words that cost less: test_paper_figures.py builds `paper all`, and `--episodes 2` plays two games."""


_RUN_ELSEWHERE = ("data.policy=AGENT", "evaluation.world_model=AGENT", "metrics=[drift,state]")
"""Sweeps with one of these run whole in test_agent_commands.py and test_state_study.py. Here they are planned."""


@cache
def done_in(folder: Path) -> set[Command]:
    """The commands that have run in a folder; to be added to."""
    return set()


def at_test_scale(command: Command) -> Command:
    if "--dry-run" in command:
        return command
    if command[0] == "sweep" and not set(_RUN_ELSEWHERE).isdisjoint(command):
        return (*command, "--dry-run")
    long, short = _LONG_PARTS.get(command[0], ("", ""))
    words = tuple("scale=tiny" if word.startswith("scale=") else short if word == long else word for word in command)
    if words[0] == "evaluate" and "scale=tiny" not in words:
        return (*words, "scale=tiny")  # whole games of an agent that has learned nothing are long
    if words[0] == "sweep" and not any(word.startswith(_REPEATS) for word in words):
        return words
    said = {word.partition("=")[0] for word in words}
    return (*words, *(word for word in _SMALLER.get(words[0], ()) if word.partition("=")[0] not in said))


def rows(page: str, first: str) -> list[list[str]]:
    """The cells of the table whose first column is headed `first`."""
    _, _, table = text(page).partition(f"| {first} |")
    lines = table.splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[: next(i for i, line in enumerate(lines) if not line)]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def workspace(tiny_store: Path, trained_store: Path, profiled_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a swept study, a trained agent, a profile, the documentation's files, and the dataset its Python code makes."""
    folder = shutil.copytree(tiny_store.parent, tmp_path_factory.mktemp("docs") / "folder")
    for store in (trained_store, profiled_store):
        shutil.copytree(store, folder / "outputs", dirs_exist_ok=True)
    prepare(folder)
    return folder


def prepare(folder: Path) -> None:
    """Writes the documentation's YAML files and runs its Python code."""
    for block in blocks("yaml"):
        name = re.match(r"# (\S+\.yaml)\n", block)
        assert name, f"a YAML block begins with its file's name, not with {block[:40]!r}"
        yaml.safe_load(block)
        (folder / name[1]).write_text(block)
    for number, block in enumerate(blocks("python")):
        (folder / f"code{number}.py").write_text(block)
        with contextlib.chdir(folder), patch.dict(os.environ, environment(folder)):
            runpy.run_path(f"code{number}.py")


def environment(folder: Path) -> dict[str, str]:
    return {"MINARI_DATASETS_PATH": str(folder / "minari")}


Start = Callable[..., subprocess.CompletedProcess[str]]


def run(command: Command, folder: Path, other_store: Path, start: Start = in_this_process) -> subprocess.CompletedProcess[str]:
    evaluations = sorted((folder / "outputs" / "evaluate_world_model").glob("*"))
    placeholders = {"JOB": evaluations[0].name, "OTHER": evaluations[1].name, "FOLDER": str(other_store)} if evaluations else {}
    words = [placeholders.get(word, word) for word in command]
    if any(word.endswith("AGENT") for word in words):
        words = [word.removesuffix("AGENT") + trained_agent(folder) if word.endswith("AGENT") else word for word in words]
    if words[0] == "import" and not (folder / words[1]).exists():
        run(("export", "AGENT", words[1]), folder, other_store)  # as the page does before it
    return start(*words, cwd=folder, env=environment(folder))


def trained_agent(folder: Path) -> str:
    """The agent of a documented `train`, made now where it is not there yet."""
    built = folder / "outputs" / "train_agent"
    if not built.exists():
        in_this_process("train", "game=Breakout", "seed=0", "scale=tiny", cwd=folder, env=environment(folder))
    return f"train_agent/{next(built.iterdir()).name}"


@pytest.mark.parametrize("command", commands_at_test_scale([page for page in PAGES if page not in TUTORIALS]), ids=" ".join)
def test_a_documented_command_runs(command: Command, workspace: Path, tiny_store: Path) -> None:
    done = run(command, workspace, tiny_store)
    assert done.stdout or done.stderr
    assert "Traceback" not in done.stderr
    done_in(workspace).add(command)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_is_followed(page: Path, workspace: Path, tiny_store: Path) -> None:
    """A command that another page has run in this workspace is not run again."""
    assert re.match(r"# .+\n\nAt the end of this tutorial you", page.read_text())
    for command in commands_at_test_scale([page]):
        if command not in done_in(workspace):
            test_a_documented_command_runs(command, workspace, tiny_store)


def test_the_main_command_and_the_kinds_of_commands_are_documented() -> None:
    assert ("sweep", "sampling_steps", "scale=smoke") in commands()
    documented = {command[0] for command in commands(elsewhere=True)} | {
        "play",
        "join",
        "export-dataset",
        "score",
        "correlate",
        "acceptance",
    }  # files of their own run these
    assert documented == {name.split()[0] for name in registered()}


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_documented_commands_run_literally(tiny_store: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    for command in commands():
        run(command, tmp_path, tiny_store, diamond_bench)
    assert (tmp_path / "outputs/studies/sampling_steps/smoke/report/drift-Breakout.png").stat().st_size > 0


def test_ci_runs_exactly_the_readme_s_test_command() -> None:
    (line,) = (line for block in _BLOCK.findall(text("README.md")) for line in block[1].splitlines() if "pytest" in line)
    assert line in [command.strip() for command in text(".ci/run").splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    prose = _BLOCK.sub("", page.read_text())
    for target in _LINK.findall(prose):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in headings(file), f"{page.name}: {target}"


def headings(page: Path) -> Iterator[str]:
    for title in re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text()), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def registered() -> set[str]:
    """The commands of the command line."""
    from diamond_bench.cli import app
    from diamond_bench.cli.dataset_commands import datasets_app
    from diamond_bench.cli.store_commands import weights_app

    def of(group: object, prefix: str = "") -> set[str]:
        names = [c.name or c.callback.__name__.replace("_", "-") for c in group.registered_commands]  # type: ignore[attr-defined]
        return {f"{prefix}{name}" for name in names}

    return of(app) | of(weights_app, "weights ") | of(datasets_app, "datasets ")


def test_evaluation_md_lists_all_columns_and_baselines(tiny_store: Path) -> None:
    columns = [name for row in rows("docs/evaluation.md", "Column") for name in names(row[0])]
    assert set(columns) == {*COLUMNS, "axis.<name>"}
    found = pd.read_parquet(tiny_store / "studies" / "sampling_steps" / "tiny" / "results.parquet")
    baselines = {name for row in rows("docs/evaluation.md", "Baseline") for name in names(row[0])}
    assert set(found["variant"][found["seed"].isna()]) <= baselines
    assert set(found["metric"]) <= set(METRIC_INFO)


def test_studies_md_names_all_shipped_studies() -> None:
    named = [name for row in rows("docs/studies.md", "Topic") for name in re.findall(r"\w+", re.sub(r"\(.*?\)", "", row[1]))]
    assert {file.stem for file in (ROOT / "experiments").glob("*.yaml")} <= set(named)


def test_architecture_md_names_all_rooms_and_kinds() -> None:
    listed = [names(row[0]) for row in rows("docs/architecture.md", "Room")]
    assert [set(floor) for floor in listed] == FLOORS
    assert {names(row[0])[0] for row in rows("docs/architecture.md", "Kind of job")} == set(KINDS)
