"""The floors of docs/architecture.md: an import may go down, never up; planning takes no torch."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = [  # top floor first; rooms of one floor do not import each other
    {"diamond_bench.__main__"},
    {"diamond_bench.cli"},
    {"diamond_bench.printing"},
    {"diamond_bench.api"},
    {"diamond_bench.play"},
    {"diamond_bench.stored"},
    {"paper_figures"},
    {"diamond_bench.report"},
    {"diamond_bench.profiling"},
    {"diamond_bench.doctor"},
    {"diamond_bench.launch"},
    {"diamond_bench.jobs"},
    {"diamond_bench.training"},
    {"diamond_bench.evaluation"},
    {"diamond_bench.imagination"},
    {"diamond_bench.agent"},
    {"diamond_bench.worlds"},
    {"diamond_bench.results"},
    {"diamond_bench.studies"},
    {"diamond_bench.costs"},
    {"diamond_bench.metrics"},
    {"diamond_bench.datasets"},
    {"diamond_bench.store"},
    {"diamond_bench.data"},
    {"diamond_bench.envs"},
    {"diamond_bench.diffusion"},
    {"diamond_bench.models"},
    {"diamond_bench.compose"},
    {"diamond_bench.typed"},
    {"diamond_bench.config"},
    {"diamond_bench.spaces"},
    {"diamond_bench.reading", "diamond_bench.shapes", "diamond_bench.spreadsheet", "diamond_bench.terminal"},
    {"diamond_bench.errors"},
    {"analysis"},
]
_FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str | None:
    return next((room for room in _FLOOR if module == room or module.startswith(f"{room}.")), None)


@cache
def imports(source: str) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def goes_up(module: str, imported: str) -> bool:
    here, there = room_of(module), room_of(imported)
    return here is not None and there is not None and here != there and _FLOOR[there] <= _FLOOR[here]


def modules() -> list[tuple[str, Path]]:
    files = [file for top in ("diamond_bench", "analysis", "paper_figures") for file in (ROOT / top).rglob("*.py")]
    return [(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), file) for file in files]


def test_imports_only_go_down() -> None:
    wrong = [f"{module} imports {name}" for module, file in modules() for name in imports(file.read_text()) if goes_up(module, name)]
    assert not wrong


def circle(files: dict[str, Path]) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; empty if there is none. Imports within functions and for
    type checkers count too."""

    def target(name: str) -> str:
        return name if name in files else name.rpartition(".")[0]

    graph = {module: {there for name in imports(file.read_text()) if (there := target(name)) != module} for module, file in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(dict(modules())) == []


def test_a_circle_is_noticed_though_one_import_is_within_a_function(tmp_path: Path) -> None:
    texts = {
        "pack": "",
        "pack.first": "from pack import second\n",
        "pack.second": "from pack.third import name\n",
        "pack.third": "def name():\n    import pack.first\n",
    }
    files = {module: tmp_path / module for module in texts}
    for module, text in texts.items():
        files[module].write_text(text)
    assert sorted(set(circle(files))) == ["pack.first", "pack.second", "pack.third"]
    files["pack.third"].write_text("import pack\n")
    assert circle(files) == []


def test_an_import_that_goes_up_is_noticed() -> None:
    assert goes_up("diamond_bench.models.unet", "diamond_bench.training.log.TrainingLog")
    assert goes_up("analysis.pixels", "diamond_bench.errors.UserError")
    assert not goes_up("diamond_bench.jobs.parts", "diamond_bench.errors.UserError")


def test_every_module_has_a_room() -> None:
    homeless = [m for m, _ in modules() if room_of(m) is None and m != "diamond_bench"]
    assert not homeless


def denoisers_in(source: str) -> list[str]:
    """What a file says of denoisers in code: imports of their modules, the classes' names, attributes called `denoiser`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in _DENOISERS:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in _DENOISERS]
        elif isinstance(node, ast.Name) and node.id in ("Denoiser", "DenoiserNetwork", "SupportsDenoise"):
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in ("denoiser", "denoise", "training_loss"):
            found.append(f".{node.attr}")
    return found


_DENOISERS = ("diamond_bench.diffusion.denoiser", "diamond_bench.models.denoiser_network", "diamond_bench.worlds.diamond.world")


def test_who_uses_a_world_model_knows_no_denoiser() -> None:
    """Outside of the families of denoisers, of diffusion/ and of models/. `worlds.families` opens a family by its name."""
    apart = (
        "diamond_bench.worlds.diamond",
        "diamond_bench.worlds.cascade",
        "diamond_bench.worlds.transformer",
        "diamond_bench.diffusion",
        "diamond_bench.models",
        "diamond_bench.worlds.families",
    )
    found = {m: denoisers_in(file.read_text()) for m, file in modules() if not m.startswith(apart)}
    counts = ("diamond_bench.costs.train_agent", "diamond_bench.profiling.lines")  # Updates.denoiser is a number of updates
    assert not {module: said for module, said in found.items() if said and module not in counts}
    reported = denoisers_in("from diamond_bench.diffusion.denoiser import Denoiser\nisinstance(model.denoiser, Denoiser)")
    assert sorted(reported) == [".denoiser", "Denoiser", "diamond_bench.diffusion.denoiser"]


def test_no_file_grows_past_one_sitting() -> None:
    long = {file.name: n for _, file in modules() if (n := len(file.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.parametrize(
    "arguments",
    [["studies"], ["sweep", "sampling_steps", "--dry-run", "--json"], ["--help"]],
    ids=["studies", "plan", "help"],
)
def test_planning_imports_no_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['diamond-bench', *{arguments!r}]\n"
        "from diamond_bench.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('HEAVY', sorted({'torch', 'torchmetrics', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "HEAVY []" in done.stderr
