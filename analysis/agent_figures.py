"""The learning of agents: test returns against real steps. DataFrames in, figures out; legible without colour, as in `figures`."""

import textwrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.curves import mean_over_seeds
from analysis.figures import RC, Style, styles


def learning_figure(points: pd.DataFrame) -> Figure:
    """Mean return of the tests against real environment steps: one panel for each game and one line for each variant.

    A line has a band over seeds if there are at least 3.

    `points` has columns game, variant, seed, test (its number, from 0), real_steps, value (raw return), with one row for each test of a
    run. Seeds are averaged test by test, at their mean number of real steps. Raises ValueError without points, or for a value that is not
    finite.
    """
    if points.empty:
        raise ValueError("no test returns to draw")
    games, variants = list(dict.fromkeys(points["game"])), list(dict.fromkeys(points["variant"]))
    columns = min(4, len(games))
    rows = -(-len(games) // columns)
    looks = styles([str(name) for name in variants])
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(max(2.5 * columns + 0.3, 5.0), 2.1 * rows + 0.8), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for ax, game in zip(panels.flat, games, strict=False):
            for variant in variants:
                _draw(ax, points[(points["game"] == game) & (points["variant"] == variant)], str(variant), looks[str(variant)])
            ax.set_title(game)
            ax.locator_params(axis="x", nbins=4)
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("real environment steps")
            ax.set_ylabel("test return (game score)")
        for ax in panels.flat[len(games) :]:
            ax.remove()
        handles = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if len(handles) > 1:
            names = ["\n".join(textwrap.wrap(name, 30)) for name in handles]
            figure.legend(list(handles.values()), names, loc="outside upper center", ncols=min(4, len(handles)), frameon=False)
    return figure


def _draw(ax: Axes, points: pd.DataFrame, label: str, style: Style) -> None:
    if points.empty:
        return
    means = mean_over_seeds(points, ["test"])
    steps = means["test"].map(points.groupby("test")["real_steps"].mean()).to_numpy(dtype=np.float64)
    order = np.argsort(steps)
    known = means["low"].notna().to_numpy()[order]
    low, high = (means[name].to_numpy(dtype=np.float64)[order] for name in ("low", "high"))
    ax.fill_between(steps[order], low, high, where=known, color=style.color, alpha=0.15, linewidth=0)
    look = {"color": style.color, "linestyle": style.linestyle, "marker": style.marker}
    ax.plot(steps[order], means["mean"].to_numpy()[order], label=label, markevery=max(1, len(steps) // 8), **look)
