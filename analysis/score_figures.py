"""Figures of scores: intervals, performance profiles, single games, and trajectories of several models. Data in, figures out.

Legible without colour, as in `figures`. No pyplot.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from analysis.aggregates import Curve, Profile
from analysis.chart import RC, REFERENCE, Chart, fitted, keep, level, side_legend, top_legend
from analysis.figures import Looks
from analysis.looks import MARKERS, Style, styles

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Interval:
    """A value with its interval, or NaN ends. `hollow`: the same quantity from another source (as printed), or NaN."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    hollow: float = float("nan")


@dataclass(frozen=True)
class IntervalPanel:
    """A panel of `interval_figure`: its axis label, an interval for each row, and reference lines (x, label)."""

    xlabel: str
    intervals: Mapping[str, Interval]
    lines: Sequence[tuple[float, str]] = ()
    shaded: tuple[float, float] | None = None
    """A shaded range of x without practical importance (a margin)."""


def interval_figure(panels: Sequence[IntervalPanel], names: Sequence[str], hollow_label: str = "", looks: Looks | None = None) -> Chart:
    """Values with intervals: one row for each name, from the top, and one panel for each quantity. A name that a panel lacks has an empty
    row there.

    `hollow_label` is the meaning of a hollow diamond, shown in a legend if there is one. `looks`: by name, otherwise by place. Raises
    ValueError without panels or names.
    """
    if not panels or not names:
        raise ValueError("no intervals to draw")
    looks = looks or styles(list(names))
    shown = [fitted(name, 3.1) for name in names]
    lines = sum(text.count("\n") + 1 for text in shown)
    with matplotlib.rc_context({**RC, "axes.grid.axis": "x"}):
        figure = Chart(figsize=(2.7 * len(panels) + 1.7, 0.15 * lines + 0.09 * len(names) + 1.2), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _draw_panel(ax, panel, names, looks)
        axes[0].set_yticks(range(len(names)), shown)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        if hollow_label and any(np.isfinite(i.hollow) for panel in panels for i in panel.intervals.values()):
            point = axes[0].plot([], [], linestyle="none", marker="D", markerfacecolor="white", color="0.25", label=hollow_label)
            top_legend(figure, point, [hollow_label])
    return figure


def _draw_panel(ax: Axes, panel: IntervalPanel, names: Sequence[str], looks: Mapping[str, Style]) -> None:
    if panel.shaded is not None:
        ax.axvspan(*panel.shaded, color="0.9", linewidth=0)
        keep(ax, panel.xlabel, "shaded", low=panel.shaded[0], high=panel.shaded[1])
    for x, label in panel.lines:
        ax.axvline(x, color=REFERENCE, linewidth=1.0, linestyle=":")
        keep(ax, panel.xlabel, label or f"{x:g}", value=x)
        ax.annotate(
            label, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(2, 2), textcoords="offset points", fontsize=7, color="0.35"
        )
    for row, name in enumerate(names):
        found = panel.intervals.get(name)
        if found is None:
            continue
        if np.isfinite(found.low) and np.isfinite(found.high):
            ax.plot([found.low, found.high], [row, row], color=looks[name].color, linewidth=4.0, alpha=0.45, solid_capstyle="butt")
        ax.plot(found.value, row, linestyle="none", markersize=6, **looks[name].point)
        hollow = {"hollow": found.hollow} if np.isfinite(found.hollow) else {}
        keep(ax, panel.xlabel, name, value=found.value, low=found.low, high=found.high, **hollow)
        if np.isfinite(found.hollow):
            ax.plot(found.hollow, row, linestyle="none", marker="D", markerfacecolor="white", color="0.25", markersize=4.5)
    ax.set_xlabel(fitted(panel.xlabel, 2.7))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def profile_figure(profiles: Mapping[str, Profile], xlabel: str = "human-normalised score τ", looks: Looks | None = None) -> Chart:
    """Performance profiles: the share of runs and games with a score above τ, with one line and band per method.

    Bands without finite ends are left out. `looks` as in `interval_figure`. Raises ValueError without profiles.
    """
    if not profiles:
        raise ValueError("no profiles to draw")
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(6.8, 3.4), layout="constrained")
        ax = figure.add_subplot()
        looks = looks or styles(list(profiles))
        for i, (name, profile) in enumerate(profiles.items()):
            style = looks[name]
            every = max(1, len(profile.taus) // 8)
            if np.isfinite(profile.low).all():
                ax.fill_between(profile.taus, profile.low, profile.high, color=style.color, alpha=0.15, linewidth=0)
            ax.plot(profile.taus, profile.share, label=name, markevery=((i * every) // len(profiles), every), **style.line)
            keep(ax, "", name, tau=profile.taus, value=profile.share, low=profile.low, high=profile.high)
        ax.axvline(1.0, color=REFERENCE, linewidth=1.0, linestyle=":", label="human")
        keep(ax, "", "human", tau=1.0)
        ax.set(xlabel=xlabel, ylabel="share of runs with score > τ", ylim=(0.0, 1.02))
        ax.margins(x=0.0)
        side_legend(ax)
    return figure


@dataclass(frozen=True)
class EfficiencyLine:
    """An aggregate over the training: its curve at these numbers of real steps, (points,). NaN ends of the band if there is none."""

    steps: NDArray[np.float64]
    curve: Curve


def efficiency_figure(
    lines: Mapping[str, EfficiencyLine], ylabel: str = "IQM of human-normalised scores", looks: Looks | None = None
) -> Chart:
    """Scores against real environment steps, with one line and band per method. A score holds until the next measurement.

    `looks` as in `interval_figure`. Raises ValueError without lines.
    """
    if not lines:
        raise ValueError("no curves to draw")
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(6.8, 3.4), layout="constrained")
        ax = figure.add_subplot()
        looks = looks or styles(list(lines))
        for i, (name, found) in enumerate(lines.items()):
            style, steps, curve = looks[name], found.steps, found.curve
            every = max(1, len(steps) // 8)
            if np.isfinite(curve.low).all():
                ax.fill_between(steps, curve.low, curve.high, step="post", color=style.color, alpha=0.15, linewidth=0)
            offset = ((i * every) // len(lines)) % len(steps)
            ax.plot(steps, curve.value, label=name, drawstyle="steps-post", markevery=(offset, every), **style.line)
            keep(ax, "", name, real_steps=steps, value=curve.value, low=curve.low, high=curve.high)
        if ax.get_ylim()[1] > 0.5:  # otherwise the line would compress the curves
            level(ax, "", 1.0, "human")
        ax.set(xlabel="real environment steps", ylabel=fitted(ylabel, 3.0))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        side_legend(ax)
    return figure


def per_game_figure(
    games: Mapping[str, Mapping[str, Interval]], xlabel: str = "human-normalised score", looks: Looks | None = None
) -> Chart:
    """Bars with intervals: one panel for each game with its own scale, and one bar for each method, in the order of their first appearance.

    `looks` as in `interval_figure`. Raises ValueError without games.
    """
    if not games:
        raise ValueError("no games to draw")
    names = list(dict.fromkeys(name for of_game in games.values() for name in of_game))
    looks = looks or styles(names)
    columns = min(4, len(games))
    rows = -(-len(games) // columns)
    with matplotlib.rc_context({**RC, "axes.grid.axis": "x", "xtick.labelsize": 7}):
        figure = Chart(figsize=(1.95 * columns, (0.13 * len(names) + 0.42) * rows + 0.9), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.02, w_pad=0.03)  # type: ignore[union-attr, call-arg]
        panels = figure.subplots(rows, columns, squeeze=False)
        for ax, (game, of_game) in zip(panels.flat, games.items(), strict=False):
            for row, name in enumerate(names):
                if name in of_game:
                    _draw_bar(ax, row, of_game[name], looks[name])
                    keep(ax, game, name, value=of_game[name].value, low=of_game[name].low, high=of_game[name].high)
            ax.axvline(1.0, color="0.3", linewidth=0.8, linestyle=":")
            ax.axvline(0.0, color="0.3", linewidth=0.8)
            ax.set_title(fitted(game, 1.95), fontsize=8, pad=2)
            ax.set(yticks=[], ylim=(len(names) - 0.4, -0.6))
            ax.grid(axis="y", visible=False)
            ax.locator_params(axis="x", nbins=4)
        for ax in panels.flat[len(games) :]:
            ax.remove()
        for ax in panels.flat[max(0, len(games) - columns) : len(games)]:  # the lowest of each column
            ax.set_xlabel(xlabel, fontsize=8)
        handles = [
            Patch(facecolor=looks[name].color, alpha=0.75, hatch=_hatch(looks[name]), edgecolor=_edge(looks[name])) for name in names
        ]
        top_legend(figure, handles, [looks[name].label(name) for name in names])
    return figure


_HATCHES = ("", "////", "\\\\\\\\", "....", "xxxx", "----", "++++", "oooo", "||||", "//", "..", "xx", "oo")
"""A bar's pattern in place of each of MARKERS."""


def _hatch(style: Style) -> str:
    return _HATCHES[MARKERS.index(style.marker)]


def _edge(style: Style) -> str:
    return "black" if style.baseline else "white"


def _draw_bar(ax: Axes, row: int, found: Interval, style: Style) -> None:
    width = 1.0 if style.baseline else 0.0
    ax.barh(row, found.value, height=0.8, color=style.color, alpha=0.75, hatch=_hatch(style), edgecolor=_edge(style), linewidth=width)
    if np.isfinite(found.low) and np.isfinite(found.high):
        ax.plot([found.low, found.high], [row, row], color="black", linewidth=1.0)


@dataclass(frozen=True)
class TrajectoryBlock:
    """One model's rows of a side-by-side figure: its title, and the frames it imagined, by row; uint8 (T, h, w, 3)."""

    title: str
    imagined: Mapping[str, Frames]


def side_by_side_figure(true: Frames, blocks: Sequence[TrajectoryBlock], times: Sequence[int]) -> Chart:
    """Trajectories of several models: one block for each model with one row for each setting, and the true frames on top of each block.

    `times` are the columns; 1 is the first imagined frame. A block that lacks a row has an empty one. Raises ValueError for frames whose
    dtype or shape differs from the true ones', or a t outside 1..T.
    """
    for block in blocks:
        for name, frames in {"true": true, **block.imagined}.items():
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape != true.shape:
                raise ValueError(f"{block.title}, {name}: expected uint8 frames (T, h, w, 3) of the true frames' shape, got {frames.shape}")
    if not blocks or not times or min(times) < 1 or max(times) > len(true):
        raise ValueError(f"times={list(times)}: must lie in 1..{len(true)}, and one block is needed")
    rows = ["true", *dict.fromkeys(name for block in blocks for name in block.imagined)]
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        close = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.015, wspace=0.0, hspace=0.0)
        columns = len(times) + 1  # of a block, the last one empty
        titles = [fitted(block.title, 0.72 * len(times)) for block in blocks]
        lines = max(title.count("\n") for title in titles) + 1
        figure = Chart(figsize=(0.72 * len(times) * len(blocks) + 1.1, 0.74 * len(rows) + 0.45 + 0.18 * lines), layout=close)
        grid = figure.add_gridspec(  # one grid, so that all frames have one size
            len(rows) + 1,
            columns * len(blocks) - 1,
            width_ratios=([*[1.0] * len(times), 0.12] * len(blocks))[:-1],
            height_ratios=[0.25 * lines, *[1.0] * len(rows)],
        )
        for number, (block, title) in enumerate(zip(blocks, titles, strict=True)):
            first = number * columns
            head = figure.add_subplot(grid[0, first : first + len(times)])
            head.text(0.5, 0.5, title, ha="center", va="center", fontsize=9, transform=head.transAxes)
            head.set_axis_off()
            for place, name in enumerate(rows):
                shown = true if name == "true" else block.imagined.get(name)
                for column, t in enumerate(times):
                    ax = figure.add_subplot(grid[place + 1, first + column])
                    ax.set(xticks=[], yticks=[])
                    ax.spines[:].set_visible(False)
                    if shown is not None:
                        ax.imshow(shown[t - 1], interpolation="nearest")
                        figure.keep_pixels(block.title, name, t, shown[t - 1])
                    if number == column == 0:
                        ax.set_ylabel("\n".join(textwrap.wrap(name, 12)), rotation=0, ha="right", va="center", fontsize=8)
                    if place == 0:
                        ax.set_title(f"t = {t}", fontsize=7)
    return figure
