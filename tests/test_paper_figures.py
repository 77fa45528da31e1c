"""Tables and figures of the paper from published numbers: values, footnotes, the index, files; tables and drawing."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import ROOT, clean_environment
from matplotlib.figure import Figure

from analysis.aggregates import Curve
from analysis.chart import annotate
from analysis.score_figures import (
    EfficiencyLine,
    Interval,
    IntervalPanel,
    TrajectoryBlock,
    efficiency_figure,
    interval_figure,
    per_game_figure,
    side_by_side_figure,
)
from analysis.scores import human_random
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import plan_study
from diamond_bench.studies.single import plan_profile
from paper_figures.build import build_paper
from paper_figures.index import as_markdown
from paper_figures.parts import Inputs, slug
from paper_figures.registry import ARTIFACTS
from paper_figures.tables import Cell, Head, Table, best, number, to_csv, to_markdown, words

pytestmark = pytest.mark.timeout(900)  # the shared store takes seconds on a quiet machine, minutes on a busy one

ALWAYS = ["all.tex", "index.json", "index.md"]


def build(out: Path, *artifacts: str, results: Sequence[str] = (), scores: Path | None = None, store: Path | None = None) -> list[Path]:
    kept = Store(store or out.parent / "no-store", say=lambda text: None)
    return build_paper(artifacts, results, scores, out, kept, lambda text: None, lambda done, total, text: None)


def index(out: Path) -> dict[str, dict]:
    return json.loads((out / "index.json").read_text())["artifacts"]


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`paper all` with published scores alone."""
    out = tmp_path_factory.mktemp("paper") / "paper"
    files = build(out, "all")
    assert {file.name for file in files} == {file.name for file in out.iterdir()}
    return out


def column(out: Path, table: str, method: str) -> dict[str, float]:
    frame = pd.read_csv(out / f"{table}.csv").set_index("Game")
    return frame[method].to_dict()


# Published numbers


@pytest.mark.parametrize(
    ("table", "method", "superhuman", "mean", "iqm"),
    [
        ("table1", "SimPLe", 1, 0.332, 0.130),
        ("table1", "IRIS", 10, 1.046, 0.501),
        ("table1", "DreamerV3", 9, 1.097, 0.497),
        ("table1", "DIAMOND", 11, 1.459, 0.641),
        ("table6", "MuZero", 5, 0.562, 0.288),
        ("table6", "EfficientZero", 14, 1.943, 1.047),
        ("table6", "CURL", 2, 0.261, 0.113),
        ("table6", "SPR", 6, 0.616, 0.337),
        ("table6", "SR-SPR", 9, 1.271, 0.700),
        ("table6", "BBF", 12, 2.247, 1.139),
        ("table6", "DIAMOND", 11, 1.459, 0.641),
    ],
)
def test_computed_aggregates_are_the_published_ones(paper: Path, table: str, method: str, superhuman: int, mean: float, iqm: float) -> None:
    found = column(paper, table, method)
    assert found["Superhuman games"] == superhuman == found["Superhuman games, as printed"]
    assert round(found["Mean HNS"], 3) == mean == found["Mean HNS, as printed"]
    assert round(found["IQM HNS"], 3) == iqm == found["IQM HNS, as printed"]


def test_what_cannot_be_recomputed_is_shown_apart_from_what_was_printed(paper: Path) -> None:
    twm, storm = column(paper, "table1", "TWM"), column(paper, "table1", "STORM")
    assert np.isnan(twm["IQM HNS"])
    assert twm["IQM HNS, as printed"] == 0.459
    assert (round(storm["Mean HNS"], 3), round(storm["IQM HNS"], 3), storm["Superhuman games"]) == (1.222, 0.561, 9)
    assert (storm["Mean HNS, as printed"], storm["IQM HNS, as printed"], storm["Superhuman games, as printed"]) == (1.266, 0.636, 10)
    assert storm["Freeway"] == 33.5


def test_medians_gaps_and_the_ten_games_are_the_published_ones(paper: Path) -> None:
    found = pd.read_csv(paper / "optimality_gap.csv").set_index("Method")
    for method, median, gap in [("DIAMOND", 0.3734, 0.4802), ("STORM", 0.4246, 0.4717), ("IRIS", 0.2888, 0.5117)]:
        row = found.loc[method]
        assert (round(row["median"], 4), round(row["optimality_gap"], 4)) == (median, gap)
        assert row["optimality_gap_low"] < gap < row["optimality_gap_high"]
    assert round(column(paper, "table7", "DIAMOND (n=3)")["Mean HNS"], 3) == 3.052
    assert round(column(paper, "table7", "DIAMOND (n=1)")["Mean HNS"], 3) == 1.962


def test_printed_facts(paper: Path) -> None:
    sizes = pd.read_csv(paper / "table4.csv").set_index("Method")
    assert sizes["parameters_million"].to_dict() == {"IRIS": 30, "DreamerV3": 18, "DIAMOND": 13}
    times = pd.read_csv(paper / "table5.csv")
    assert times["printed_rtx_4090"].tolist() == [88, 115, 340, 20.4, 12.7, 4.2, 7.0, 0.7, 34, 217, 2.9]
    quality = pd.read_csv(paper / "table8.csv").set_index(["method", "data"])
    assert quality.loc[("DIAMOND frame-stack", "CS:GO"), ["fid", "fvd", "lpips"]].tolist() == [9.6, 34.8, 0.107]
    assert quality.loc[("IRIS (K = 64)", "motorway driving"), ["fid", "frames_per_second"]].tolist() == [44.3, 1.5]


def test_figures_rest_on_the_published_runs(paper: Path) -> None:
    found = pd.read_csv(paper / "figure2.csv").set_index("Method")
    assert list(found.index) == ["SimPLe", "TWM", "IRIS", "DreamerV3", "STORM", "DIAMOND"]
    assert found.loc["DIAMOND", ["mean", "iqm"]].round(3).tolist() == [1.459, 0.641]
    assert 1.3 < found.loc["DIAMOND", "mean_low"] < 1.459 < found.loc["DIAMOND", "mean_high"] < 1.6
    assert found.loc["TWM", ["mean_low", "iqm", "iqm_low"]].isna().all()
    profile = pd.read_csv(paper / "figure7.csv").set_index(["method", "tau"])
    raw = pd.read_csv(Path(sys.modules["analysis.scores"].__file__).parent / "published" / "published_scores.csv")
    of = raw[(raw["method"] == "DIAMOND") & (raw["source"] == "DIAMOND repo results/data")]
    norm = human_random()
    hns = (of["score"] - of["game"].map(norm["random"])) / (of["game"].map(norm["human"]) - of["game"].map(norm["random"]))
    assert profile.loc[("DIAMOND", 2.0), "share"] == pytest.approx((hns > 2.0).mean())
    bars = pd.read_csv(paper / "per_game.csv").set_index(["game", "method"])
    assert bars.loc[("Boxing", "DIAMOND"), "mean"] == pytest.approx(hns[of["game"] == "Boxing"].mean())
    assert np.isnan(bars.loc[("Boxing", "TWM"), "low"])


@pytest.mark.parametrize(
    ("artifact", "words_of_the_trap"),
    [
        ("table1", ["0.757", "stand-ins", "Freeway", "UpNDown, 9234", "last point", "exactly the human one", "TWM"]),
        ("table6", ["112450.3", "of the 26 game means", "do not rank", "100 runs"]),
        ("table7", ["single run", "only the 10 games"]),
        ("figure2", ["Freeway", "stand-ins", "exactly the human one", "TWM"]),
        ("figure7", ["Freeway", "stand-ins", "TWM: left out"]),
        ("optimality_gap", ["Freeway", "100 runs", "seeds are ranks"]),
        ("probability_of_improvement", ["Freeway", "100 runs", "seeds are ranks"]),
        ("per_game", ["Freeway", "stand-ins", "last point"]),
    ],
)
def test_traps_are_footnotes_of_what_they_touch(paper: Path, artifact: str, words_of_the_trap: list[str]) -> None:
    markdown, tex = (paper / f"{artifact}.md").read_text(), (paper / f"{artifact}.tex").read_text()
    for trap in words_of_the_trap:
        assert trap in markdown
        assert trap in tex
        assert trap in " ".join(index(paper)[artifact]["footnotes"])


@pytest.mark.parametrize("artifact", ["table1", "figure2", "figure7", "optimality_gap", "probability_of_improvement", "per_game"])
def test_differing_protocols_are_stated_wherever_methods_are_compared(paper: Path, artifact: str) -> None:
    assert "Protocols differ in sticky actions: 0" in (paper / f"{artifact}.md").read_text()


def test_table_4_says_that_protocols_and_counts_of_parameters_differ(paper: Path) -> None:
    text = (paper / "table4.md").read_text()
    assert "Protocols differ in no-ops" in text
    for size in (
        "IRIS: 30 million as printed; its public code has another count: about 8.4 M",
        "default block of the 200 M class",
        "13.5 M",
    ):
        assert size in text


@pytest.mark.parametrize(("artifact", "titles"), [("figure2", ("mean", "IQM")), ("optimality_gap", ("median", "optimality gap"))])
def test_intervals_of_aggregates_say_what_coverage_they_attain(paper: Path, artifact: str, titles: tuple[str, str]) -> None:
    text = (paper / f"{artifact}.md").read_text()
    said = rf"DIAMOND: nominal 95%; attained by simulation for 5 runs × 26 games: {titles[0]} about (\d+)%, {titles[1]} about (\d+)%\."
    found = re.search(said, text)
    assert found is not None
    assert all(70 <= int(level) <= 94 for level in found.groups())  # five runs: below nominal
    assert "simulation of normal runs around each game's mean" in text
    assert "nominal 95%, attained about" in ARTIFACTS[artifact].make(Inputs(Store(paper))).figures[""].caption


def test_no_footnote_is_of_something_that_is_not_shown(paper: Path) -> None:
    assert "No interval for" not in (paper / "table1.md").read_text()
    assert "No interval for TWM" in (paper / "figure2.md").read_text()
    assert "IQM" not in (paper / "table7.md").read_text()
    for artifact in ("table1", "figure2", "figure7", "optimality_gap", "per_game"):
        assert "IQM of game means" not in (paper / f"{artifact}.md").read_text(), artifact
    assert "IQM of game means (MuZero, EfficientZero, SR-SPR, BBF)" in (paper / "table6.md").read_text()


def test_methods_of_which_only_means_are_known_have_a_median_and_no_more(paper: Path) -> None:
    found = pd.read_csv(paper / "optimality_gap.csv").set_index("Method")
    for method, median in [("BBF", 0.917), ("MuZero", 0.227)]:
        row = found.loc[method]
        assert round(row["median"], 3) == median
        assert row[["median_low", "median_high", "optimality_gap", "optimality_gap_low"]].isna().all()


def test_the_paper_s_artifacts_show_the_methods_that_they_showed(paper: Path) -> None:
    world_models = ["SimPLe", "TWM", "IRIS", "DreamerV3", "STORM", "DIAMOND"]
    assert list(pd.read_csv(paper / "table1.csv").columns) == ["Game", "Random", "Human", *world_models]
    assert list(pd.read_csv(paper / "figure2.csv")["Method"]) == world_models
    assert list(pd.read_csv(paper / "figure7.csv")["method"].unique()) == [m for m in world_models if m != "TWM"]
    assert set(pd.read_csv(paper / "per_game.csv")["method"]) == set(world_models)
    six = ["MuZero", "EfficientZero", "CURL", "SPR", "SR-SPR", "BBF", "DIAMOND"]
    assert list(pd.read_csv(paper / "table6.csv").columns)[3:] == six
    wider = {"TWM", "REM", "Simulus", "HarmonyDream (DreamerV3)", "DreamerV3 (HarmonyDream reproduction)", "DrQ(eps)", "Delta-IRIS"}
    assert wider <= set(pd.read_csv(paper / "optimality_gap.csv")["Method"])
    assert wider <= set(pd.read_csv(paper / "probability_of_improvement.csv").iloc[:, 0])
    gaps = pd.read_csv(paper / "optimality_gap.csv").set_index("Method")
    assert gaps.index.is_unique
    assert gaps.loc["Simulus", ["median", "optimality_gap"]].round(4).tolist() == [0.9819, 0.4118]
    assert gaps.loc["TWM", "median_low"] < 0.5054 < gaps.loc["TWM", "median_high"]


# The index and the files


def test_the_index_is_complete(paper: Path) -> None:
    entries = index(paper)
    assert list(entries) == list(ARTIFACTS)
    assert {file for entry in entries.values() for file in entry["files"]} | set(ALWAYS) == {file.name for file in paper.iterdir()}
    text = (paper / "index.md").read_text()
    for name, entry in entries.items():
        assert f"## {name}\n" in text
        assert all(f"({file})" in text for file in entry["files"])
        assert entry["sources"] if entry["files"] else entry["lacks"]
    assert {name for name, entry in entries.items() if not entry["files"]} == {
        "figure3",
        "figure4",
        "section5_3",
        "figure8",
        "figure10",
        "figure11",
        "figure12",
        "paired_differences",
    }
    assert "token model" in entries["figure5"]["lacks"][0]["what"]
    assert "curves of the other published methods" in entries["sample_efficiency"]["lacks"][0]["what"]


def test_commands_that_would_make_what_lacks_are_commands(paper: Path) -> None:
    commands = {lack["command"] for entry in index(paper).values() for lack in entry["lacks"] if lack["command"]}
    assert "diamond-bench sweep diffusion_objective scale=small" in commands
    for command in commands:
        program, verb, *rest = shlex.split(command)
        assert program == "diamond-bench"
        if verb == "profile":
            plan_profile(rest, None, lambda device: ("cpu", "a processor"))
        else:
            assert verb == "sweep"
            plan_study(rest[0], rest[1:])


def test_the_document_inputs_every_fragment(paper: Path) -> None:
    text = (paper / "all.tex").read_text()
    built = [name for name, entry in index(paper).items() if entry["files"]]
    assert [line for line in text.splitlines() if line.startswith("\\input")] == [f"\\input{{{name}}}" for name in built]
    pictures = {file.name for file in paper.glob("*.pdf")}
    included = {
        line.rpartition("{")[2].partition("}")[0]
        for name in built
        for line in (paper / f"{name}.tex").read_text().splitlines()
        if "includegraphics" in line
    }
    assert included == pictures


def test_a_rerun_writes_identical_bytes(paper: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    files = build(again, "table1", "figure2")
    for file in files:
        if file.name not in ALWAYS:
            assert file.read_bytes() == (paper / file.name).read_bytes(), file.name
            assert b"CreationDate" not in file.read_bytes()
    before = {file: file.stat().st_mtime_ns for file in again.iterdir()}
    build(again, "table1", "figure2")
    assert {file: file.stat().st_mtime_ns for file in again.iterdir()} == before


def test_earlier_artifacts_stay_in_the_index_and_the_document(tmp_path: Path) -> None:
    out = tmp_path / "paper"
    build(out, "table5")
    build(out, "table8", "figure5")
    assert list(index(out)) == ["figure5", "table5", "table8"]
    assert "\\input{table5}" in (out / "all.tex").read_text()
    assert index(out)["table5"]["command"] == "diamond-bench paper table5"


def test_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from paper_figures.build import build_paper\n"
        "from diamond_bench.store.artifacts import Store\n"
        f"build_paper(['table1', 'figure7'], [], None, Path({str(tmp_path / 'paper')!r}), Store({str(tmp_path)!r}), print, print)\n"
        "print('TORCH', 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=clean_environment())
    assert "TORCH False" in done.stdout


# Tables and drawing


def test_tables_have_letters_escapes_and_full_numbers() -> None:
    heads = (Head("a|b", notes=("first",)), Head("line\nbreak"))
    rows = ((words("x_y", ["second"]), number(1 / 3, 2)), (words("<z>", ["first", "second"]), Cell()))
    table = Table(heads, rows, notes=("for all",))
    assert to_csv(table).decode() == "a|b,line break\nx_y,0.333333333333\n<z>,\n"
    shown = to_markdown(table)
    assert r"a\|b<sup>a</sup> | line<br>break" in shown
    assert r"x\_y<sup>b</sup> | 0.33 |" in shown
    assert "&lt;z&gt;<sup>a,b</sup> | — |" in shown
    assert table.all_notes() == ["a: first", "b: second", "for all"]
    with pytest.raises(ValueError, match="cells"):
        Table(heads, ((words("alone"),),))


def test_the_best_are_bold_ties_at_the_shown_precision_included() -> None:
    cells = [number(value, 1) for value in (1.04, 0.96, 0.5, 9.0)]
    assert [cell.bold for cell in best([*cells, Cell()], [True, True, True, False, True], 1)] == [True, True, False, False, False]
    assert [cell.bold for cell in best(cells, [True] * 4, 1, highest=False)] == [False, False, True, False]


def test_the_frames_of_all_blocks_have_one_size_and_stand_in_line() -> None:
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    blocks = [TrajectoryBlock(title, {"n = 1": frames, "a long name of a row": frames}) for title in ("DDPM", "EDM, " * 12)]
    figure = side_by_side_figure(frames, blocks, [1, 2, 4])
    figure.draw_without_rendering()
    places = [ax.get_position() for ax in figure.axes if ax.images]
    assert len(places) == 2 * 3 * 3
    assert len({(round(place.width, 6), round(place.height, 6)) for place in places}) == 1
    assert len({round(place.y0, 6) for place in places}) == 3


def test_drawing_refuses_what_does_not_fit() -> None:
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="shape"):
        side_by_side_figure(frames, [TrajectoryBlock("EDM", {"n = 1": frames[:2]})], [1])
    with pytest.raises(ValueError, match="times"):
        side_by_side_figure(frames, [TrajectoryBlock("EDM", {"n = 1": frames})], [5])
    with pytest.raises(ValueError, match="no intervals"):
        interval_figure([], ["a"])


def test_intervals_are_drawn_where_they_are_known() -> None:
    panel = IntervalPanel("x", {"known": Interval(1.0, 0.5, 1.5), "point": Interval(2.0), "hollow": Interval(3.0, hollow=4.0)})
    figure = interval_figure([panel], ["known", "point", "hollow", "absent"], "as printed")
    assert isinstance(figure, Figure)
    (ax,) = figure.axes
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines if len(line.get_xdata())]  # type: ignore[arg-type]
    assert drawn == [([0.5, 1.5], [0, 0]), ([1.0], [0]), ([2.0], [1]), ([3.0], [2]), ([4.0], [2])]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["known", "point", "hollow", "absent"]


def test_a_caption_leaves_the_label_of_an_axis_and_one_of_the_whole_figure_alone() -> None:
    games = {f"game {i}": {"a": Interval(1.0, 0.5, 1.5), "b": Interval(2.0)} for i in range(6)}
    figure = annotate(per_game_figure(games), "what it shows and rests on " * 12, "a mark")
    labelled = [ax for ax in figure.axes if ax.get_xlabel()]
    assert [(ax.get_title(), ax.get_xlabel()) for ax in labelled] == [(f"game {i}", "human-normalised score") for i in (2, 3, 4, 5)]
    whole = Figure(layout="constrained")
    whole.subplots(1, 2)
    whole.supxlabel("of all", fontsize=9)
    annotate(whole, "a caption of several lines " * 20)
    assert whole.get_supxlabel() == "of all"
    for drawn in (figure, whole):
        drawn.draw_without_rendering()
        caption = next(text for text in drawn.texts if text.get_text().startswith(("what it", "a caption"))).get_window_extent()
        labels = [text.get_window_extent() for text in drawn.texts if text.get_text() == "of all"]
        labels += [ax.xaxis.label.get_window_extent() for ax in drawn.axes if ax.get_xlabel()]
        boxes = [*labels, *(ax.get_tightbbox() for ax in drawn.axes)]
        assert caption.y0 >= 0
        assert labels
        assert not any(box is not None and caption.overlaps(box) for box in boxes)
        ticks = [tick.label1.get_window_extent() for ax in drawn.axes for tick in ax.xaxis.get_major_ticks()]
        assert not any(label.overlaps(tick) for label in labels for tick in ticks)


@pytest.mark.parametrize(
    ("words_of_it", "taken", "name"),
    [
        (["a/b", "tiny*", "Pong"], [], "a-b-tiny-changed-Pong"),
        (["../x y", "é中%"], [], "x-y"),
        (["a b"], ["a-b", "a-b-2"], "a-b-3"),
    ],
)
def test_names_of_files_are_plain(words_of_it: list[str], taken: list[str], name: str) -> None:
    assert slug(*words_of_it, taken=taken) == name


@pytest.mark.parametrize(("jobs", "said"), [(["a"], "1 job (a)"), (["a", "b"], "2 jobs (a, b)")])
def test_the_index_counts_jobs(jobs: list[str], said: str) -> None:
    source = {"kind": "study", "study": "s", "scale": "tiny", "jobs": jobs, "commits": [], "notes": []}
    entry = {"title": "t", "command": "c", "made_by": "m", "files": [], "sources": [source], "footnotes": [], "lacks": []}
    assert said in as_markdown({"table1": entry}).decode()


def test_curves_along_training_are_drawn_with_the_bands_they_have() -> None:
    steps, nothing = np.array([10.0, 20.0]), np.full(2, np.nan)
    lines = {
        "banded": EfficiencyLine(steps, Curve(np.array([0.1, 0.9]), np.array([0.0, 0.8]), np.array([0.2, 1.0]))),
        "bare": EfficiencyLine(steps, Curve(np.array([0.3, 0.4]), nothing, nothing)),
    }
    (ax,) = efficiency_figure(lines).axes
    assert len(ax.collections) == 1
    assert [line.get_label() for line in ax.lines] == ["banded", "bare", "human"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("real environment steps", "IQM of human-normalised scores")
    with pytest.raises(ValueError, match="no curves"):
        efficiency_figure({})


# Documentation


def test_the_documentation_lists_every_artifact() -> None:
    text = (ROOT / "docs" / "paper.md").read_text()
    listed = [line.split("`")[1] for line in text.partition("| Artifact |")[2].splitlines() if line.startswith("| `")]
    assert listed == list(ARTIFACTS)
