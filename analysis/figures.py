"""The figures of a study: arrays and DataFrames in, matplotlib figures out.

Legible without colour: variants differ by line style and marker too, and ordered ones by lightness. No pyplot, so nothing global is
changed and no display is needed.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray

from analysis.curves import Curve
from analysis.media import replacing

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
_CAPTION_LINE, _CAPTION_PAD = 7 * 1.25 / 72, 0.03
"""Inches: height of a caption's line, and space above and below it."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RC: Any = {  # Any: matplotlib types the keys individually since 3.11
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
    "text.parse_math": False,  # a name may contain dollar signs
}


@dataclass(frozen=True)
class Style:
    """How one variant looks in every figure."""

    color: Any
    linestyle: Any
    marker: str


def styles(names: Sequence[str], ordered: bool = False) -> dict[str, Style]:
    """A style for each name, by its position: Okabe and Ito's colours, or cividis from dark to light if the names are `ordered`."""
    names = list(dict.fromkeys(names))
    if ordered:
        colors = list(matplotlib.colormaps["cividis"](np.linspace(0.0, 0.85, len(names))))
    else:
        colors = [*OKABE_ITO] * (1 + len(names) // len(OKABE_ITO))
    return {name: Style(colors[i], _LINES[i % len(_LINES)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(names)}


def draw_drift(
    curves: Mapping[str, Curve],
    ax: Axes | None = None,
    *,
    unrelated: float | None = None,
    copy_last: ArrayLike | None = None,
    ordered: bool = False,
    ylabel: str = "error",
) -> Axes:
    """Draws drift, or another error, against t, with a line and band per variant (in the mapping's order).

    `unrelated`: the error between unrelated true frames, at which a prediction has lost all information about the trajectory. `copy_last`
    (t,): the error of repeating the last true frame.
    """
    if not curves:
        raise ValueError("no curves to draw")
    with matplotlib.rc_context(RC):
        ax = ax or Figure(figsize=(6.4, 3.2), layout="constrained").add_subplot()
        for i, (name, style) in enumerate(styles(list(curves), ordered).items()):
            curve = curves[name]
            t = np.arange(1, len(curve.mean) + 1)
            every = max(1, len(t) // 8)
            offset = (i * every // len(curves)) % len(t)  # markers of different lines lie at different t
            look = {"color": style.color, "linestyle": style.linestyle, "marker": style.marker}
            ax.fill_between(t, curve.low, curve.high, color=style.color, alpha=0.15, linewidth=0)
            ax.plot(t, curve.mean, label=name, markevery=(offset, every), **look)
        if copy_last is not None:
            copied = np.asarray(copy_last, dtype=np.float64)
            ax.plot(np.arange(1, len(copied) + 1), copied, color="0.45", linewidth=1.0, linestyle="-.", label="copy last frame")
        if unrelated is not None:
            ax.axhline(unrelated, color="0.45", linewidth=1.0, linestyle=":", label="unrelated true frames")
        ax.set(xlabel="imagined frame t", ylabel=ylabel)
        ax.set_ylim(bottom=0.0, auto=None)  # a shared axis still grows with later panels
        ax.margins(x=0.01)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3.0)
    return ax


@dataclass(frozen=True)
class DriftPanel:
    """The content of one panel of a drift figure; see `draw_drift`."""

    title: str
    curves: Mapping[str, Curve]
    unrelated: float | None = None
    copy_last: ArrayLike | None = None


def drift_figure(panels: Sequence[DriftPanel], *, ordered: bool = False, ylabel: str = "error") -> Figure:
    """Drift or another error against t, with one panel for each arm of the study, all on one scale."""
    if not panels:
        raise ValueError("no panels to draw")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6.4 * columns, 3.0 * rows + 0.3), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
        for panel, ax in zip(panels, axes, strict=False):
            draw_drift(panel.curves, ax, unrelated=panel.unrelated, copy_last=panel.copy_last, ordered=ordered, ylabel=ylabel)
            ax.set_title(panel.title)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
    return figure


def quality_figure(
    points: pd.DataFrame,
    *,
    ordered: bool = False,
    labels: Mapping[str, str] | None = None,
    baselines: Mapping[str, float] | None = None,
    baseline: str = "copy last frame",
    xlabel: str = "NFE per frame",
    shared_scale: bool = False,
) -> Figure:
    """Quality against the number of denoiser calls per frame, with one panel for each metric and one line for each group. Several seeds
    give intervals.

    `points` has columns metric, group, nfe (at least 1; another quantity if `xlabel` says so), mean, low, high, as `curves.mean_points`
    returns them. `labels` has titles of panels other than the metric's name. `shared_scale` gives all panels one y axis, for panels of one
    quantity. `baselines` has, by metric, the score of `baseline`: a horizontal line that puts differences into proportion.
    """
    if points.empty or (points["nfe"] < 1).any():
        raise ValueError("quality against NFE needs points, each with an NFE of at least 1")
    metrics, groups = list(points["metric"].unique()), list(points["group"].unique())
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    calls = sorted(points["nfe"].unique())
    step = 0.08 if points["low"].notna().any() else 0.0  # octaves by which intervals of different groups are shifted
    looks = styles([str(g) for g in groups], ordered)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(max(2.5 * columns, 4.2), 2.3 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=shared_scale)
        for ax, metric in zip(panels.flat, metrics, strict=False):
            for i, group in enumerate(groups):
                of_group = points[(points["metric"] == metric) & (points["group"] == group)].sort_values("nfe")
                dodge = 2.0 ** (step * (i - (len(groups) - 1) / 2))
                _draw_line(ax, of_group, dodge, str(group), looks[str(group)])
            if np.isfinite((baselines or {}).get(metric, np.nan)):
                ax.axhline((baselines or {})[metric], color="0.45", linewidth=1.0, linestyle="-.", label=baseline)
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_locator(FixedLocator(_apart(calls)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set(title=(labels or {}).get(metric, metric), xlabel=xlabel)
        for ax in panels.flat[len(metrics) :]:
            ax.remove()
        handles = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if len(handles) > 1:
            figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=min(4, len(handles)), frameon=False)
    return figure


def _apart(calls: Sequence[float]) -> list[float]:
    """The ascending `calls` that have room for a tick label on a log axis."""
    kept = [calls[0]]
    for n in calls:
        if np.log2(n / kept[-1]) > np.log2(calls[-1] / calls[0]) / 10:
            kept.append(n)
    return kept


def _draw_line(ax: Axes, points: pd.DataFrame, dodge: float, label: str, style: Style) -> None:
    if points.empty:
        return
    known = points[points["low"].notna() & points["high"].notna()]
    reach = np.stack([known["mean"] - known["low"], known["high"] - known["mean"]])
    ax.errorbar(known["nfe"] * dodge, known["mean"], yerr=reach, fmt="none", ecolor=style.color, elinewidth=1.0, capsize=2.0)
    ax.plot(points["nfe"] * dodge, points["mean"], color=style.color, linestyle=style.linestyle, marker=style.marker, label=label)


def trajectory_figure(true: NDArray[np.uint8], imagined: Mapping[str, NDArray[np.uint8]], times: Sequence[int]) -> Figure:
    """Frames of one trajectory: the true ones on top, then one row for each variant. Each t in `times` is a column (1 is the first imagined
    frame).

    Frames are uint8 (T, h, w, 3), all of one shape. Raises ValueError for other shapes or dtypes, or a t outside 1..T.
    """
    for name, frames in {"true": true, **imagined}.items():
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape != true.shape:
            raise ValueError(f"{name}: expected uint8 frames (T, h, w, 3) of the true frames' shape, got {frames.dtype} {frames.shape}")
    if not times or min(times) < 1 or max(times) > len(true):
        raise ValueError(f"times={list(times)}: must lie in 1..{len(true)}")
    names = ["true", *imagined]
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        close = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.02, wspace=0.0, hspace=0.0)
        figure = Figure(figsize=(0.9 * len(times) + 1.1, 0.9 * len(names) + 0.5), layout=close)
        panels = figure.subplots(len(names), len(times), squeeze=False)
        for row, frames in zip(panels, [true, *imagined.values()], strict=True):
            for ax, t in zip(row, times, strict=True):
                ax.imshow(frames[t - 1], interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
        for ax, t in zip(panels[0], times, strict=True):
            ax.set_title(f"t = {t}", fontsize=8)
        for ax, name in zip(panels[:, 0], names, strict=True):
            ax.set_ylabel("\n".join(textwrap.wrap(name, 16)), rotation=0, ha="right", va="center", fontsize=8)
    return figure


DPI = 200
"""Dots per inch of the PNG files."""


def caption_height(figure: Figure, caption: str) -> float:
    """Inches at the bottom of a figure that `annotate` gives to a caption; 0 without one."""
    return len(_caption_lines(figure, caption)) * _CAPTION_LINE + 2 * _CAPTION_PAD if caption else 0.0


def _caption_lines(figure: Figure, caption: str) -> list[str]:
    return textwrap.wrap(caption, int(figure.get_size_inches()[0] * 18))


def annotate(figure: Figure, caption: str = "", watermark: str = "") -> Figure:
    """Put a caption in small print below the figure, and a pale watermark across its panels (scales that show no finding)."""
    width, height = figure.get_size_inches()
    if caption:  # text, and not supxlabel, which would take the place of an existing one
        lines = _caption_lines(figure, caption)
        strip = caption_height(figure, caption) / height
        own = next((text for text in figure.texts if text.get_text() and text.get_text() == figure.get_supxlabel()), None)
        above = strip
        if own is not None:  # by default it keeps to the edge of the figure
            size = float(own.get_fontsize())
            figure.supxlabel(own.get_text(), y=strip, va="bottom", fontsize=size)
            above += (size * 1.5 / 72) / height
        engine = figure.get_layout_engine()
        if isinstance(engine, ConstrainedLayoutEngine):
            engine.set(rect=(0.0, above, 1.0, 1.0 - above))
        figure.text(0.01, _CAPTION_PAD / height, "\n".join(lines), ha="left", va="bottom", fontsize=7, linespacing=1.2, color="0.35")
    if watermark:
        figure.draw_without_rendering()  # positions the panels, so that the watermark avoids legends and labels
        panels = Bbox.union([ax.get_position() for ax in figure.axes])
        angle = min(20.0, 0.4 * float(np.degrees(np.arctan2(panels.height * height, panels.width * width))))
        figure.text(
            (panels.x0 + panels.x1) / 2,
            (panels.y0 + panels.y1) / 2,
            watermark,
            rotation=angle,
            fontsize=min(24.0, panels.width * width * 72 / (0.6 * len(watermark))),
            color="0.3",
            alpha=0.35,
            path_effects=[withStroke(linewidth=2.0, foreground="white", alpha=0.35)],  # legible on dark frames too
            ha="center",
            va="center",
            zorder=1000,
        )
    return figure


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `figure` to stem.png (DPI) and stem.pdf, each whole or not at all. Returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf")]
    for path in paths:
        with replacing(path) as temporary, matplotlib.rc_context({"pdf.fonttype": 42}):
            figure.savefig(temporary, dpi=DPI, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)
    return paths


def panel_grid(number: int, ylabel: str) -> tuple[Figure, list[Axes]]:
    """A figure of that many panels in rows of at most three, with one shared y axis. Call it, and draw, under RC."""
    columns = min(3, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(max(2.5 * columns, 4.2), 2.3 * rows + 0.6), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for ax in axes[number:]:
        ax.remove()
    axes[0].set_ylabel(ylabel)
    return figure, axes[:number]


def shared_legend(figure: Figure) -> None:
    """One legend above all panels, with each label once."""
    handles = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=min(4, len(handles)), frameon=False)
