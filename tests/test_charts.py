"""All figures: no text over text or pictures, points on their ticks, the numbers in the CSV, captions, and whole files."""

import io
import itertools
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from figure_examples import EXAMPLES, FRAMES, LOOKS, STEPS, curve, points
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from analysis.chart import Chart, annotate, caption_height, fitted, save_figure
from analysis.figures import DriftPanel, drift_figure, quality_figure, trajectory_figure
from diamond_bench.spreadsheet import csv_text

CAPTION = f"400 trajectories, 3 seeds, scale smoke; band: {'a long explanation ' * 8}"
WARNING = "Scale smoke demonstrates the pipeline, not a result"


def texts_of(figure: Figure) -> list[Text]:
    """Every text that a reader sees, tick labels outside the view excepted."""
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    return [
        text for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_text().strip() and text.get_visible() and text not in hidden
    ]  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_text_lies_over_text_and_the_band_over_nothing(name: str) -> None:
    figure = annotate(EXAMPLES[name](), CAPTION, WARNING)
    figure.draw_without_rendering()
    boxes = {text: text.get_window_extent() for text in texts_of(figure)}
    said = [text.get_text().replace("\n", " ") for text in boxes]
    assert WARNING in said
    assert not any("$" in text for text in said)  # unrendered mathematics
    assert CAPTION.strip() in said
    for text, box in boxes.items():
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        assert not a.overlaps(b), (one, other)
    band = figure.artists[-1].get_window_extent()
    assert band.y1 == pytest.approx(figure.bbox.height)
    inside = Bbox.from_extents(band.x0, band.y0 + 0.5, band.x1, band.y1)
    assert not any(box is not None and inside.overlaps(box) for box in (ax.get_tightbbox() for ax in figure.axes))


def test_the_band_takes_no_room_from_the_panels() -> None:
    plain, banded = EXAMPLES["power"](), annotate(EXAMPLES["power"](), band=WARNING)
    for figure in (plain, banded):
        figure.draw_without_rendering()
    assert banded.axes[0].get_window_extent().height == pytest.approx(plain.axes[0].get_window_extent().height, abs=2.0)


def coordinates(figure: Chart) -> np.ndarray:
    """Every coordinate of the lines, bands, bars and spans, and the value of every cell, drawn in a figure's panels."""
    found = [np.zeros(0)]
    for ax in figure.axes:
        for line in ax.lines:
            found += [np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)]
        for collection in ax.collections:
            if isinstance(collection, (PolyCollection, LineCollection)):
                found += [path.vertices.ravel() for path in collection.get_paths()]  # type: ignore[union-attr]
        found += [cells.ravel() for image in ax.images if (cells := np.asarray(image.get_array(), float)).ndim == 2]
        for patch in ax.patches:
            found.append(patch.get_path().vertices.ravel() if patch.get_transform() == ax.transData else extent(patch))  # type: ignore[union-attr]
    return np.concatenate(found)


def extent(patch: matplotlib.patches.Patch) -> np.ndarray:
    assert isinstance(patch, matplotlib.patches.Rectangle)
    return np.array([patch.get_x(), patch.get_y(), patch.get_x() + patch.get_width(), patch.get_y() + patch.get_height()])


def read_back(figure: Chart) -> pd.DataFrame:
    """A figure's CSV as a program reads it."""
    return pd.read_csv(io.StringIO(csv_text(figure.numbers())), float_precision="round_trip")


@pytest.mark.parametrize("name", sorted({*EXAMPLES} - {"trajectories", "side by side"}))
def test_the_csv_has_exactly_the_numbers_drawn(name: str) -> None:
    figure = EXAMPLES[name]()
    found = read_back(figure)
    drawn = coordinates(figure)
    numbers = found.drop(columns=["panel", "series"]).to_numpy(float)
    assert len(found)
    for value in numbers[np.isfinite(numbers)]:
        assert np.isclose(drawn, value, rtol=1e-12, atol=1e-15).any(), value
    for line in (line for ax in figure.axes for line in ax.lines if not str(line.get_label()).startswith("_")):
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        level = len(y) == 2 and y[0] == y[1]
        vertical = len(x) == 2 and x[0] == x[1]
        shown = y[:1] if level else x[:1] if vertical else np.concatenate([x, y])  # a level ends where its panel ends
        assert set(shown) <= set(numbers[np.isfinite(numbers)]), line.get_label()


@pytest.mark.parametrize("name", ["trajectories", "side by side"])
def test_the_csv_has_every_pixel_shown(name: str) -> None:
    figure = EXAMPLES[name]()
    found = read_back(figure)
    shown = [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]
    for t in sorted(set(found["t"])):
        rows = found[(found["t"] == t) & (found["series"] == "true")].head(8).sort_values("y")
        pixels = [[bytes.fromhex(text.removeprefix("'")) for text in row] for row in rows.filter(like="x").to_numpy(str)]
        assert np.array_equal(np.array([[list(pixel) for pixel in row] for row in pixels]), FRAMES[t - 1])
        assert any(np.array_equal(FRAMES[t - 1], picture) for picture in shown)
    assert len(found) == 8 * len(shown)


def test_points_stand_on_ticks_and_every_number_that_was_run_has_one() -> None:
    many = (1, 2, 3, 5, 10, 19, 20, 50, 100)
    for nfe, looks in ((STEPS, LOOKS), (many, None)):
        figure = quality_figure(points(nfe).query("metric == 'drift'"), looks=looks)
        figure.draw_without_rendering()
        for ax in figure.axes:
            ticks = {float(place) for place in (*ax.get_xticks(), *ax.get_xticks(minor=True))}
            assert ticks == set(nfe)
            for line in ax.lines:
                if line.get_marker() not in ("None", None, "", "|", "_"):
                    assert set(np.asarray(line.get_xdata(), float)) <= ticks
            labelled = [tick.label1.get_text() for tick in ax.xaxis.get_major_ticks()]
            assert {"1", "10"} <= set(labelled) <= {str(n) for n in nfe}


def test_every_point_has_the_look_of_its_variant_and_the_baseline_is_named() -> None:
    figure = quality_figure(points(), looks=LOOKS)
    ax = figure.axes[0]
    for row in points()[points()["metric"] == "drift"].itertuples():
        (dot,) = (line for line in ax.lines if line.get_linestyle() == "None" and len(line.get_xdata()) == 1  # type: ignore[arg-type]
                  and (line.get_xdata()[0], line.get_ydata()[0]) == (row.nfe, row.mean) and line.get_marker() not in ("_", "|"))  # type: ignore[index]  # fmt: skip
        assert (dot.get_color(), dot.get_marker()) == (LOOKS[row.variant].color, LOOKS[row.variant].marker)
        assert (dot.get_markeredgecolor() == "black") == (row.variant == "EDM 1")
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "baseline of the study"
    drawn = drift_figure(
        [DriftPanel("Pong", {"n = 1": curve(0), "n = 3": curve(1)}, looks={"n = 1": LOOKS["EDM 1"], "n = 3": LOOKS["EDM 3"]})]
    )
    legend = drawn.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["n = 1 (baseline)", "n = 3"]


def test_copying_is_drawn_once_where_a_variant_copies() -> None:
    panel = DriftPanel("Pong", {"n = 3": curve(0), "copy last frame": curve(1)}, copy_last=curve(1).mean)
    legend = drift_figure([panel]).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["n = 3", "copy last frame"]


def test_a_legend_is_grey_where_panels_differ_in_colour() -> None:
    (legend,) = EXAMPLES["thresholds"]().legends
    colours = [handle.get_color() for handle in legend.legend_handles if isinstance(handle, Line2D)]
    assert colours == ["0.35"] * (1 + len(STEPS)) + ["0.45"]  # n = 1 is a baseline in one of the panels
    dashes = [str(handle._unscaled_dash_pattern) for handle in legend.legend_handles[: len(STEPS)]]  # type: ignore[union-attr]
    assert len(set(dashes)) == len(STEPS)


@pytest.mark.parametrize(
    ("text", "inches", "lines"),
    [
        ("PSNR one step ahead (dB) ↑", 2.0, ["PSNR one step ahead", "(dB) ↑"]),
        ("a title", 2.0, ["a title"]),
        ("x" * 30, 1.0, ["x" * 12, "x" * 12, "x" * 6]),
    ],
)
def test_titles_are_broken_where_they_end(text: str, inches: float, lines: list[str]) -> None:
    assert fitted(text, inches).split("\n") == lines


# Captions and files


@pytest.mark.parametrize("caption", ["one line", "a long explanation " * 20], ids=["short", "long"])
def test_a_caption_lies_in_the_strip_that_is_cut_off_on_a_page(caption: str) -> None:
    figure = annotate(drift_figure([DriftPanel("Pong", {"n = 1": curve(0)})]), caption)
    figure.draw_without_rendering()
    strip = caption_height(figure, caption) * figure.dpi
    panel = figure.axes[0].get_tightbbox()
    assert panel is not None
    assert figure.texts[-1].get_window_extent().y1 <= strip + 1 <= panel.y0 + 2


def test_a_figure_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = trajectory_figure(FRAMES, {"n = 1": FRAMES}, [1, 5])
    stem = tmp_path / "report" / "drift.n=1.5"
    png, pdf = save_figure(figure, stem)
    assert [path.name for path in sorted(stem.parent.iterdir())] == ["drift.n=1.5.pdf", "drift.n=1.5.png"]
    assert pdf.read_bytes().startswith(b"%PDF")
    with Image.open(png) as picture:
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    before = png.read_bytes()

    def breaks(path, **options):
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", breaks)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, stem)
    assert png.read_bytes() == before
    assert len(list(stem.parent.iterdir())) == 2


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    drawn = [annotate(drift_figure([DriftPanel("Pong", {"n = 1": curve(0)})]), CAPTION, WARNING) for _ in range(2)]
    first, again = (save_figure(figure, tmp_path / name) for figure, name in zip(drawn, ("a", "b"), strict=True))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_drawing_changes_nothing_global():
    before = dict(matplotlib.rcParams)
    EXAMPLES["drift"]()
    assert dict(matplotlib.rcParams) == before
    code = "import sys, analysis.figures; assert not {'matplotlib.pyplot', 'diamond_bench', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
