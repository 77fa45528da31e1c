"""What all figures share: fonts and sizes, titles and legends that collide with nothing, the numbers drawn, and files.

No pyplot, so nothing global is changed and no display is needed.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from analysis.media import replacing

RC: Any = {  # Any: matplotlib types the keys one by one since 3.11
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name may hold dollar signs
}
DPI = 200
"""Dots per inch of the PNG files."""
REFERENCE = "0.45"
"""The grey of everything that variants are compared with."""
COPY_LAST = "copy last frame"
"""What figures call the error of repeating the last true frame."""
_LETTERS_AN_INCH = 12
"""How many letters of a title (9 points) an inch has room for."""
_LEGEND_WIDTH = 30
"""Most letters of a line in a legend."""
_LEGEND_LINE = 8 * 1.5 / 72
_CAPTION_LINE, _CAPTION_PAD = 7 * 1.25 / 72, 0.03
"""Inches: height of a caption's line, and room above and below it."""
_BAND_LINE, _BAND_PAD = 8 * 1.25 / 72, 0.05
_BAND, _BAND_INK = "#fff3d6", "#5a3a00"


class Chart(Figure):
    """A figure that keeps the numbers drawn in it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._drawn: list[pd.DataFrame] = []

    def keep(self, panel: str, series: str, **columns: ArrayLike) -> None:
        """Keep what is drawn in a panel as one series: columns of one length each, or one number."""
        arrays = {name: [values] if not hasattr(values, "__len__") else values for name, values in columns.items()}
        self._drawn.append(pd.DataFrame({"panel": one_line(panel), "series": one_line(series), **arrays}))

    def keep_pixels(self, panel: str, series: str, t: int, frame: NDArray[Any]) -> None:
        """Keep a drawn frame, uint8 (h, w, 3): a row for each line of pixels, with each pixel as rrggbb."""
        texts = [[f"{r:02x}{g:02x}{b:02x}" for r, g, b in line] for line in frame.tolist()]
        columns = {f"x{x}": [line[x] for line in texts] for x in range(frame.shape[1])}
        self.keep(panel, series, t=[t] * len(texts), y=list(range(len(texts))), **columns)

    def numbers(self) -> pd.DataFrame:
        """Everything drawn, one row per point: panel, series, its place on the x axis, and value, low and high where it has them.

        A level line has no place on the x axis, and a vertical line no value. A frame has its pixels in place of a value.
        """
        return pd.concat(self._drawn, ignore_index=True) if self._drawn else pd.DataFrame(columns=["panel", "series"])


def keep(ax: Axes, panel: str, series: str, **columns: ArrayLike) -> None:
    """As `Chart.keep`, where these axes belong to a Chart."""
    if isinstance(ax.figure, Chart):
        ax.figure.keep(panel, series, **columns)


def level(ax: Axes, panel: str, height: float, label: str, linestyle: Any = ":", color: str = REFERENCE) -> None:
    """A level line across the panel that values are compared with."""
    ax.axhline(height, color=color, linewidth=1.0, linestyle=linestyle, label=label)
    keep(ax, panel, label, value=height)


def one_line(text: str) -> str:
    """A text without line breaks."""
    return " ".join(text.split())


def fitted(text: str, inches: float) -> str:
    """A title or label broken into lines that fit into this width."""
    kept = one_line(text).replace(" ↑", "\u00a0↑").replace(" ↓", "\u00a0↓")  # an arrow alone on a line says nothing
    return textwrap.fill(kept, max(8, int(_LETTERS_AN_INCH * inches))).replace("\u00a0", " ")


def panel_grid(number: int, ylabel: str) -> tuple[Chart, list[Axes]]:
    """A figure of that many panels in rows of at most three, with one shared y axis. Call it, and draw, under RC."""
    columns = min(3, number)
    rows = -(-number // columns)
    figure = Chart(figsize=(max(2.5 * columns, 4.2), 2.3 * rows + 0.6), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for ax in axes[number:]:
        ax.remove()
    axes[0].set_ylabel(ylabel)
    return figure, axes[:number]


def side_legend(ax: Axes) -> None:
    """A legend to the right of a panel."""
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles, _broken(labels), loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3.0)


def shared_legend(figure: Figure, fewest: int = 1) -> None:
    """One legend above all panels with each label once, variants before references, in as many columns as fit; none below `fewest` labels.

    If a label has different colours in different panels, the legend is grey: markers and lines are the same in all panels.
    """
    found: dict[str, list[Any]] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, []).append(handle)
    if len(found) >= fewest:
        order = sorted(found, key=lambda label: _is_reference(found[label][0]))
        mixed = any(len({str(line.get_color()) for line in handles if isinstance(line, Line2D)}) > 1 for handles in found.values())
        handles = [_grey(found[label][0]) if mixed and not _is_reference(found[label][0]) else found[label][0] for label in order]
        top_legend(figure, handles, order)


def _is_reference(handle: Any) -> bool:
    return not isinstance(handle, Line2D) or handle.get_color() == REFERENCE or handle.get_linestyle() == "None"


def top_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend above all panels, in as many columns as fit. The figure grows by all its lines but the first, for which it has room."""
    broken = _broken(labels) if len(labels) > 1 else [fitted(labels[0], figure.get_figwidth() - 1.0)]
    longest = max(len(line) for label in broken for line in label.split("\n"))
    inches = (longest * 0.62 * 8 + 3.0 * 8 + 24) / 72  # letters, handle, gaps
    columns = max(1, min(4, len(handles), int(figure.get_figwidth() / inches)))
    rows = -(-len(broken) // columns)
    lines = max(sum(label.count("\n") + 1 for label in broken[start : start + rows]) for start in range(0, len(broken), rows))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + (lines - 1) * _LEGEND_LINE)
    figure.legend(list(handles), broken, loc="outside upper center", ncols=columns, frameon=False, handlelength=3.0)


def _broken(labels: Sequence[str]) -> list[str]:
    return [textwrap.fill(one_line(label), _LEGEND_WIDTH) for label in labels]


def _grey(line: Line2D) -> Line2D:
    proxy = Line2D([], [])
    proxy.update_from(line)  # with its dashes, which get_linestyle does not know
    proxy.set_color("0.35")
    return proxy


def caption_height(figure: Figure, caption: str) -> float:
    """Inches at the bottom of a figure that `annotate` adds for a caption; 0 without one."""
    return len(_caption_lines(figure, caption)) * _CAPTION_LINE + 2 * _CAPTION_PAD if caption else 0.0


def _caption_lines(figure: Figure, caption: str) -> list[str]:
    return textwrap.wrap(caption, int(figure.get_figwidth() * 18))


def annotate(figure: Figure, caption: str = "", band: str = "") -> Figure:
    """Add a caption in small print below the figure, and a coloured band with a warning above it. The figure grows by their heights."""
    if not caption and not band:
        return figure
    width, height = figure.get_size_inches()
    warning = textwrap.wrap(band, int(width * 14))
    below = caption_height(figure, caption)
    above = len(warning) * _BAND_LINE + 2 * _BAND_PAD if band else 0.0
    total = height + below + above
    figure.set_size_inches(width, total)
    low, share = below / total, height / total
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        bottom = low
        own = next((text for text in figure.texts if text.get_text() and text.get_text() == figure.get_supxlabel()), None)
        if own is not None:  # by itself it keeps to the lower edge of the figure
            size = float(own.get_fontsize())
            figure.supxlabel(own.get_text(), y=low, va="bottom", fontsize=size)
            bottom += (size * 1.5 / 72) / total if caption else 0.0
        engine.set(rect=(0.0, bottom, 1.0, low + share - bottom))
    for legend in figure.legends:  # an anchor would take them out of the layout
        legend.borderaxespad += above * 72 / legend.prop.get_size_in_points()
    if caption:
        text = "\n".join(_caption_lines(figure, caption))
        figure.text(0.01, _CAPTION_PAD / total, text, ha="left", va="bottom", fontsize=7, linespacing=1.2, color="0.35")
    if band:
        strip = Rectangle((0.0, low + share), 1.0, above / total, transform=figure.transFigure, facecolor=_BAND, linewidth=0)
        figure.add_artist(strip)
        figure.text(0.5, 1.0 - above / total / 2, "\n".join(warning), ha="center", va="center", fontsize=8, color=_BAND_INK)
    return figure


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `figure` to stem.png (DPI) and stem.pdf, each whole or not at all. Returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf")]
    for path in paths:
        with replacing(path) as temporary:
            write_figure(figure, temporary, path.suffix.removeprefix("."))
    return paths


def write_figure(figure: Figure, file: Path | BinaryIO, kind: str) -> None:
    """Write a figure as png (DPI) or pdf. The same figure gives the same bytes, whenever it is drawn."""
    with matplotlib.rc_context(RC):
        figure.savefig(file, format=kind, dpi=DPI, metadata={"CreationDate": None} if kind == "pdf" else None)
