"""Modes against the number of denoiser calls: a DataFrame in, a figure out; legible without colour, as in `figures`."""

import textwrap
from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.figures import RC, Style, styles


def modes_figure(points: pd.DataFrame, *, labels: Mapping[str, str], truth: Mapping[str, float]) -> Figure:
    """Scores of `analysis.modes` against denoiser calls a frame: a panel a metric, a line a group, intervals where several seeds give one.

    `points`: columns metric, group, nfe, mean, low, high, as `curves.mean_points` returns them. `labels`: the panels' titles. `truth`: by
    metric, what as many samples of the true distribution score, a level line. Raises ValueError without points.
    """
    if points.empty:
        raise ValueError("no scores of modes to draw")
    metrics, groups = list(points["metric"].unique()), list(points["group"].unique())
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    calls = sorted(points["nfe"].unique())
    looks = styles([str(group) for group in groups])
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(max(2.6 * columns, 4.2), 2.4 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for ax, metric in zip(panels.flat, metrics, strict=False):
            for i, group in enumerate(groups):
                chosen = points[(points["metric"] == metric) & (points["group"] == group)].sort_values("nfe")
                _draw(ax, chosen, 2.0 ** (0.08 * (i - (len(groups) - 1) / 2)), str(group), looks[str(group)])
            if np.isfinite(truth.get(metric, np.nan)):
                ax.axhline(truth[metric], color="0.25", linewidth=1.0, linestyle=":", label="true distribution")
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_locator(FixedLocator(calls))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
            ax.set(title="\n".join(textwrap.wrap(labels.get(metric, metric), 28)), xlabel="NFE per frame")
        for ax in panels.flat[len(metrics) :]:
            ax.remove()
        handles = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=min(3, len(handles)), frameon=False)
    return figure


def _draw(ax: Axes, points: pd.DataFrame, dodge: float, label: str, style: Style) -> None:
    """`dodge`: factor by which groups stand side by side."""
    if points.empty:
        return
    known = points[points["low"].notna() & points["high"].notna()]
    reach = np.stack([known["mean"] - known["low"], known["high"] - known["mean"]])
    ax.errorbar(known["nfe"] * dodge, known["mean"], yerr=reach, fmt="none", ecolor=style.color, elinewidth=1.0, capsize=2.0)
    ax.plot(points["nfe"] * dodge, points["mean"], color=style.color, linestyle=style.linestyle, marker=style.marker, label=label)
