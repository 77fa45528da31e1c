"""Figures of scores: intervals, performance profiles, single games, and trajectories of several models. Data in, figures out.

Legible without colour, as in `figures`. No pyplot.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from analysis.aggregates import Curve, Profile
from analysis.figures import RC, Style, styles

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


def interval_figure(
    panels: Sequence[IntervalPanel], names: Sequence[str], hollow_label: str = "", order: Sequence[str] = (), uniform: bool = False
) -> Figure:
    """Values with intervals: one row for each name, from the top, and one panel for each quantity. A name that a panel lacks has an empty
    row there.

    `hollow_label` is the meaning of a hollow diamond, shown in a legend if there is one. `order` has names that look the same in every
    figure. `uniform` makes all rows look the same. Raises ValueError without panels or names.
    """
    if not panels or not names:
        raise ValueError("no intervals to draw")
    one = styles(["all"])["all"]
    looks = dict.fromkeys(names, one) if uniform else styles([*order, *names])
    shown = ["\n".join(textwrap.wrap(name.replace("\n", " "), 34)) for name in names]
    lines = sum(text.count("\n") + 1 for text in shown)
    with matplotlib.rc_context({**RC, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(2.7 * len(panels) + 1.7, 0.15 * lines + 0.09 * len(names) + 1.2), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _draw_panel(ax, panel, names, looks)
        axes[0].set_yticks(range(len(names)), shown)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        if hollow_label and any(np.isfinite(i.hollow) for panel in panels for i in panel.intervals.values()):
            point = axes[0].plot([], [], linestyle="none", marker="D", markerfacecolor="white", color="0.25", label=hollow_label)
            figure.legend(handles=point, loc="outside upper center", frameon=False)
    return figure


def _draw_panel(ax: Axes, panel: IntervalPanel, names: Sequence[str], looks: Mapping[str, Style]) -> None:
    if panel.shaded is not None:
        ax.axvspan(*panel.shaded, color="0.9", linewidth=0)
    for x, label in panel.lines:
        ax.axvline(x, color="0.45", linewidth=1.0, linestyle=":")
        ax.annotate(
            label, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(2, 2), textcoords="offset points", fontsize=7, color="0.35"
        )
    for row, name in enumerate(names):
        found = panel.intervals.get(name)
        if found is None:
            continue
        if np.isfinite(found.low) and np.isfinite(found.high):
            ax.plot([found.low, found.high], [row, row], color=looks[name].color, linewidth=4.0, alpha=0.45, solid_capstyle="butt")
        ax.plot(found.value, row, linestyle="none", marker=looks[name].marker, color=looks[name].color, markersize=6)
        if np.isfinite(found.hollow):
            ax.plot(found.hollow, row, linestyle="none", marker="D", markerfacecolor="white", color="0.25", markersize=4.5)
    ax.set_xlabel(panel.xlabel)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def profile_figure(profiles: Mapping[str, Profile], xlabel: str = "human-normalised score τ", order: Sequence[str] = ()) -> Figure:
    """Performance profiles: the share of runs and games with a score above τ, with one line and band per method.

    Bands without finite ends are left out. `order`: see `interval_figure`. Raises ValueError without profiles.
    """
    if not profiles:
        raise ValueError("no profiles to draw")
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6.8, 3.4), layout="constrained")
        ax = figure.add_subplot()
        looks = styles([*order, *profiles])
        for i, (name, profile) in enumerate(profiles.items()):
            style = looks[name]
            every = max(1, len(profile.taus) // 8)
            look = {"color": style.color, "linestyle": style.linestyle, "marker": style.marker}
            if np.isfinite(profile.low).all():
                ax.fill_between(profile.taus, profile.low, profile.high, color=style.color, alpha=0.15, linewidth=0)
            label = "\n".join(textwrap.wrap(name.replace("\n", " "), 28))
            ax.plot(profile.taus, profile.share, label=label, markevery=((i * every) // len(profiles), every), **look)
        ax.axvline(1.0, color="0.45", linewidth=1.0, linestyle=":")
        ax.annotate("human", (1.0, 1.0), xytext=(2, -8), textcoords="offset points", fontsize=7, color="0.35")
        ax.set(xlabel=xlabel, ylabel="share of runs with score > τ", ylim=(0.0, 1.02))
        ax.margins(x=0.0)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3.0)
    return figure


@dataclass(frozen=True)
class EfficiencyLine:
    """An aggregate over the training: its curve at these numbers of real steps, (points,). NaN ends of the band if there is none."""

    steps: NDArray[np.float64]
    curve: Curve


def efficiency_figure(lines: Mapping[str, EfficiencyLine], ylabel: str = "IQM of human-normalised scores") -> Figure:
    """Scores against real environment steps, with one line and band per method. A score holds until the next measurement.

    Raises ValueError without lines.
    """
    if not lines:
        raise ValueError("no curves to draw")
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6.8, 3.4), layout="constrained")
        ax = figure.add_subplot()
        for i, (name, style) in enumerate(styles(list(lines)).items()):
            steps, curve = lines[name].steps, lines[name].curve
            every = max(1, len(steps) // 8)
            look: dict[str, Any] = {"color": style.color, "linestyle": style.linestyle, "marker": style.marker}
            if np.isfinite(curve.low).all():
                ax.fill_between(steps, curve.low, curve.high, step="post", color=style.color, alpha=0.15, linewidth=0)
            offset = ((i * every) // len(lines)) % len(steps)
            ax.plot(steps, curve.value, label=_one_line(name), drawstyle="steps-post", markevery=(offset, every), **look)
        if ax.get_ylim()[1] > 0.5:  # otherwise the line would compress the curves
            ax.axhline(1.0, color="0.45", linewidth=1.0, linestyle=":", label="human")
        ax.set(xlabel="real environment steps", ylabel=ylabel)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3.0)
    return figure


def per_game_figure(
    games: Mapping[str, Mapping[str, Interval]], xlabel: str = "human-normalised score", order: Sequence[str] = ()
) -> Figure:
    """Bars with intervals: one panel for each game with its own scale, and one bar for each method, in the order of their first appearance.

    `order` is as in `interval_figure`. Raises ValueError without games.
    """
    if not games:
        raise ValueError("no games to draw")
    names = list(dict.fromkeys(name for of_game in games.values() for name in of_game))
    looks = styles([*order, *names])
    columns = min(4, len(games))
    rows = -(-len(games) // columns)
    with matplotlib.rc_context({**RC, "axes.grid.axis": "x", "xtick.labelsize": 7}):
        figure = Figure(figsize=(1.95 * columns, (0.13 * len(names) + 0.42) * rows + 0.9), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.02, w_pad=0.03)  # type: ignore[union-attr, call-arg]
        panels = figure.subplots(rows, columns, squeeze=False)
        for ax, (game, of_game) in zip(panels.flat, games.items(), strict=False):
            for row, name in enumerate(names):
                if name in of_game:
                    _draw_bar(ax, row, of_game[name], looks[name], _hatch(row))
            ax.axvline(1.0, color="0.3", linewidth=0.8, linestyle=":")
            ax.axvline(0.0, color="0.3", linewidth=0.8)
            ax.set_title(game, fontsize=8, pad=2)
            ax.set(yticks=[], ylim=(len(names) - 0.4, -0.6))
            ax.grid(axis="y", visible=False)
            ax.locator_params(axis="x", nbins=4)
        for ax in panels.flat[len(games) :]:
            ax.remove()
        for ax in panels.flat[max(0, len(games) - columns) : len(games)]:  # the lowest of each column
            ax.set_xlabel(xlabel, fontsize=8)
        handles = [
            matplotlib.patches.Patch(facecolor=looks[name].color, alpha=0.75, hatch=_hatch(i), edgecolor="white", label=_one_line(name))
            for i, name in enumerate(names)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(names)), frameon=False)
    return figure


def _one_line(name: str) -> str:
    return "\n".join(textwrap.wrap(name.replace("\n", " "), 30))


def _hatch(i: int) -> str:
    return ("", "////", "\\\\\\\\", "....", "xxxx", "----", "++++", "oooo")[i % 8]


def _draw_bar(ax: Axes, row: int, found: Interval, style: Style, hatch: str) -> None:
    ax.barh(row, found.value, height=0.8, color=style.color, alpha=0.75, hatch=hatch, edgecolor="white", linewidth=0.0)
    if np.isfinite(found.low) and np.isfinite(found.high):
        ax.plot([found.low, found.high], [row, row], color="black", linewidth=1.0)


@dataclass(frozen=True)
class TrajectoryBlock:
    """One model's rows of a side-by-side figure: its title, and the frames it imagined, by row; uint8 (T, h, w, 3)."""

    title: str
    imagined: Mapping[str, Frames]


def side_by_side_figure(true: Frames, blocks: Sequence[TrajectoryBlock], times: Sequence[int]) -> Figure:
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
        figure = Figure(figsize=(0.72 * len(times) * len(blocks) + 1.1, 0.74 * len(rows) + 0.6), layout=close)
        widths = [1.0 + 0.42 / (0.72 * len(times)), *([1.0] * (len(blocks) - 1))]  # the first block has the rows' names
        parts = figure.subfigures(1, len(blocks), squeeze=False, wspace=0.02, width_ratios=widths)[0]
        for number, (part, block) in enumerate(zip(parts, blocks, strict=True)):
            part.suptitle(block.title, fontsize=9)
            panels = part.subplots(len(rows), len(times), squeeze=False)
            for row, name in zip(panels, rows, strict=True):
                shown = true if name == "true" else block.imagined.get(name)
                for ax, t in zip(row, times, strict=True):
                    ax.set(xticks=[], yticks=[])
                    ax.spines[:].set_visible(False)
                    if shown is not None:
                        ax.imshow(shown[t - 1], interpolation="nearest")
                if number == 0:
                    row[0].set_ylabel("\n".join(textwrap.wrap(name, 12)), rotation=0, ha="right", va="center", fontsize=8)
            for ax, t in zip(panels[0], times, strict=True):
                ax.set_title(f"t = {t}", fontsize=7)
    return figure
