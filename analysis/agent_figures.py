"""The learning of agents: test returns against real steps. DataFrames in, figures out; legible without colour, as in `figures`."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from analysis.chart import RC, Chart, keep, shared_legend
from analysis.curves import mean_over_seeds
from analysis.figures import Looks
from analysis.looks import Style, styles


def learning_figure(points: pd.DataFrame, looks: Looks | None = None) -> Chart:
    """Mean return of the tests against real environment steps: one panel for each game and one line for each variant.

    A line has a band over seeds if there are at least 3.

    `points` has columns game, variant, seed, test (its number, from 0), real_steps, value (raw return), with one row for each test of a
    run. Seeds are averaged test by test, at their mean number of real steps. `looks`: by variant, otherwise by place. Raises ValueError
    without points, or for a value that is not finite.
    """
    if points.empty:
        raise ValueError("no test returns to draw")
    games, variants = list(dict.fromkeys(points["game"])), list(dict.fromkeys(points["variant"]))
    columns = min(4, len(games))
    rows = -(-len(games) // columns)
    looks = looks or styles([str(name) for name in variants])
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(max(2.5 * columns + 0.3, 5.0), 2.1 * rows + 0.8), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for ax, game in zip(panels.flat, games, strict=False):
            for variant in variants:
                _draw(ax, str(game), points[(points["game"] == game) & (points["variant"] == variant)], str(variant), looks[str(variant)])
            ax.set_title(game)
            ax.locator_params(axis="x", nbins=4)
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("real environment steps")
            ax.set_ylabel("test return (game score)")
        for ax in panels.flat[len(games) :]:
            ax.remove()
        shared_legend(figure, fewest=2)
    return figure


def _draw(ax: Axes, panel: str, points: pd.DataFrame, label: str, style: Style) -> None:
    if points.empty:
        return
    means = mean_over_seeds(points, ["test"])
    steps = means["test"].map(points.groupby("test")["real_steps"].mean()).to_numpy(dtype=np.float64)
    order = np.argsort(steps)
    known = means["low"].notna().to_numpy()[order]
    low, high = (means[name].to_numpy(dtype=np.float64)[order] for name in ("low", "high"))
    ax.fill_between(steps[order], low, high, where=known, color=style.color, alpha=0.15, linewidth=0)
    value = means["mean"].to_numpy(dtype=np.float64)[order]
    ax.plot(steps[order], value, label=style.label(label), markevery=max(1, len(steps) // 8), **style.line)
    keep(ax, panel, label, real_steps=steps[order], value=value, low=low, high=high)
