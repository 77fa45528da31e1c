"""Figures of the paper: no two methods look alike, each looks the same everywhere, and each figure has its numbers and its caption."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analysis import aggregates
from analysis.looks import MARKERS, MAX_LOOKS, styles
from analysis.score_figures import _HATCHES, Interval, per_game_figure
from analysis.scores import human_random
from diamond_bench.errors import UserError
from diamond_bench.report.drawing import Drawn
from diamond_bench.store.artifacts import Store
from paper_figures import aggregate_figure, probability_of_improvement
from paper_figures.build import _files
from paper_figures.inputs import load_inputs
from paper_figures.looks import all_looks
from paper_figures.methods import KNOWN, MORE_RUNS
from paper_figures.parts import Inputs
from paper_figures.published_curves import methods_with_curves
from paper_figures.registry import ARTIFACTS

FIGURES = ("figure2", "figure7", "optimality_gap", "probability_of_improvement")


def own_scores(folder: Path, methods: int) -> Path:
    """A file with so many methods of two runs a game."""
    rows = [f"mine {m},{game},{seed},{10.0 + m + seed},here" for m in range(methods) for game in human_random().index for seed in range(2)]
    (folder / "mine.csv").write_text("method,game,seed,score,source\n" + "\n".join(rows) + "\n")
    return folder / "mine.csv"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Every published method, and nine of a user's own."""
    folder = tmp_path_factory.mktemp("own")
    return load_inputs([], own_scores(folder, 9), Store(folder / "outputs", say=print), [method.name for method in MORE_RUNS])


@pytest.fixture(scope="module")
def figures(inputs: Inputs) -> dict[str, Drawn]:
    """Every figure of scores, with intervals of few replicates."""
    patched = pytest.MonkeyPatch()
    patched.setattr(aggregate_figure, "attained_words", lambda matrix, titles: "")  # the simulation takes seconds and draws nothing
    patched.setattr(aggregate_figure, "range_of_levels", lambda matrices, names: "")
    for name in ("intervals", "performance_profile", "probability_of_improvement"):
        patched.setattr(aggregates, name, partial(getattr(aggregates, name), replicates=10))
    found = {f"{name} {suffix}": drawn for name in FIGURES for suffix, drawn in ARTIFACTS[name].make(inputs).figures.items()}
    patched.undo()
    return found


def looks_in(drawn: Drawn) -> Iterator[dict[str, tuple[str, str]]]:
    """The colour and marker of each name, panel by panel."""
    figure = drawn.figure
    for ax in figure.axes:
        rows = {label.get_position()[1]: " ".join(label.get_text().split()) for label in figure.axes[0].get_yticklabels()}
        found = {}
        for line in ax.lines:
            label, hollow = str(line.get_label()), str(line.get_markerfacecolor()) == "white"
            if line.get_marker() != "None" and not hollow and len(line.get_xdata()):  # type: ignore[arg-type]
                place = float(line.get_ydata()[0])  # type: ignore[index]
                found[rows.get(place, "") if label.startswith("_") else label] = (to_hex(line.get_color()), str(line.get_marker()))
        yield found


def test_no_two_methods_of_a_figure_share_colour_and_marker(figures: dict[str, Drawn]) -> None:
    numbers = {}
    for name, drawn in figures.items():
        panels = [panel for panel in looks_in(drawn) if panel]
        for panel in panels:
            assert len(set(panel.values())) == len(panel), name
        numbers[name] = max(len(panel) for panel in panels)
    assert numbers["optimality_gap "] == len(KNOWN) + 9
    assert numbers["figure2 "] == 6 + len(MORE_RUNS) + 9


def test_bars_have_a_pattern_for_each_marker() -> None:
    looks = styles([str(i) for i in range(MAX_LOOKS)])
    games = {"Pong": {name: Interval(1.0) for name in list(looks)[:20]}}
    (legend,) = per_game_figure(games, looks=looks).legends
    assert len({(to_hex(bar.get_facecolor()), bar.get_hatch()) for bar in legend.get_patches()}) == 20
    assert len(set(_HATCHES)) == len(MARKERS)


def test_lines_along_training_have_the_looks_of_their_methods(inputs: Inputs) -> None:
    looks = all_looks(inputs, ["a study's variant"])
    assert set(methods_with_curves()) < set(looks)
    assert len({(look.color, look.marker) for look in looks.values()}) == len(looks) >= len(KNOWN) + 9 + 1


def test_a_method_looks_the_same_in_every_figure(figures: dict[str, Drawn]) -> None:
    ranked = ("figure2 ", "figure7 ", "optimality_gap ", "probability_of_improvement ")
    points = [panel for name in ranked for panel in looks_in(figures[name]) if panel]
    for method in ("DIAMOND", "SimPLe", "IRIS", "STORM", "mine 3 (here)"):
        assert len({panel[method] for panel in points if method in panel}) == 1, method
    assert points[0]["TWM"] != points[0]["TWM (TWM repo results)"]  # its means and its runs are two rows


def test_more_methods_than_looks_are_refused(tmp_path: Path) -> None:
    inputs = load_inputs([], own_scores(tmp_path, 80), Store(tmp_path / "outputs", say=print))
    with pytest.raises(UserError, match=r"too many methods: \d+ names do not fit into one figure: there are 91 different looks"):
        all_looks(inputs)


def test_each_figure_has_its_numbers_and_its_caption_stands_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "probability_of_improvement"
    monkeypatch.setattr(aggregates, name, partial(aggregates.probability_of_improvement, replicates=10))
    files = {captions: _files(name, probability_of_improvement.make(Inputs(Store(tmp_path))), captions) for captions in (False, True)}
    (tmp_path / "plotted.csv").write_bytes(files[False][f"{name}-plotted.csv"])
    plotted = pd.read_csv(tmp_path / "plotted.csv", float_precision="round_trip").set_index("series")
    table = pd.read_csv(tmp_path / "plotted.csv").set_index("series")
    (drawn,) = probability_of_improvement.make(Inputs(Store(tmp_path))).figures.values()
    dots = [float(line.get_xdata()[0]) for line in drawn.figure.axes[0].lines if line.get_marker() != "None"]  # type: ignore[index]
    assert plotted["value"].dropna().tolist() == [0.5, *dots]
    assert list(table.index)[1:] == [name.get_text().replace("\n", " ") for name in drawn.figure.axes[0].get_yticklabels()]
    caption = "Bars: 95% stratified bootstrap intervals over runs."
    assert files[False][f"{name}.md"].decode().startswith("# Probability of improvement over each method\n\n![")
    assert f".png)\n\n{caption}\n" in files[False][f"{name}.md"].decode()
    assert caption.replace("%", "\\%") in files[False][f"{name}.tex"].decode()
    assert caption not in files[True][f"{name}.md"].decode()
    assert caption.replace("%", "\\%") not in files[True][f"{name}.tex"].decode().partition("tabular")[0]
    assert files[False][f"{name}.png"] != files[True][f"{name}.png"]
