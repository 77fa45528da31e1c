"""The training losses of runs. DataFrames in, figures out; legible without colour, as in `figures`."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.chart import RC, Chart, fitted, keep, shared_legend
from analysis.figures import Looks
from analysis.looks import Style, styles

COLUMNS = ("network", "training", "seed", "step", "loss")
MAX_POINTS = 80
"""Maximum number of points per line. A longer log is averaged in this many equal parts."""


def loss_figure(points: pd.DataFrame, xlabel: str, looks: Looks | None = None) -> Chart:
    """Training loss against the updates (or epochs): one panel for each network and one line for each kind of training.

    `points` has the columns COLUMNS, one row for each line of a log. A line is the mean over seeds, and its band reaches from the lowest
    seed to the highest. The loss has a logarithmic axis where it is always positive. `looks`: by training, otherwise by place. Raises
    ValueError without points, or for a loss that is not finite.
    """
    if points.empty:
        raise ValueError("no losses to draw")
    if not np.isfinite(points["loss"].to_numpy(dtype=np.float64)).all():
        raise ValueError("losses need finite values")
    networks, trainings = list(dict.fromkeys(points["network"])), [str(name) for name in dict.fromkeys(points["training"])]
    looks = looks or styles(trainings)
    columns = min(3, len(networks))
    rows = -(-len(networks) // columns)
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(max(2.6 * columns + 0.3, 5.0), 2.3 * rows + 0.7), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax, network in zip(panels, networks, strict=False):
            of_network = points[points["network"] == network]
            for training in trainings:
                _draw(ax, network, xlabel, of_network[of_network["training"] == training], training, looks[training])
            if (of_network["loss"] > 0).all():
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                ax.yaxis.set_major_formatter("{x:g}")  # matplotlib's own labels are formulas, which RC does not read
                ax.yaxis.set_minor_formatter(NullFormatter())
            ax.set(title=fitted(network, 2.6), xlabel=xlabel, ylabel="training loss")
            ax.locator_params(axis="x", nbins=5)
        for ax in panels[len(networks) :]:
            ax.remove()
        shared_legend(figure, fewest=2)
    return figure


def binned(points: pd.DataFrame, most: int = MAX_POINTS) -> pd.DataFrame:
    """The points with each run's log averaged in at most `most` equal parts of its steps. A part lies at its last step."""
    keys = ["network", "training", "seed"]
    last = points.groupby(["network", "training"], sort=False)["step"].transform("max")
    part = np.ceil(points["step"] / last * most).clip(lower=1)
    found = points.assign(part=part).groupby([*keys, "part"], sort=False).agg(step=("step", "max"), loss=("loss", "mean")).reset_index()
    return found[list(COLUMNS)]


def _draw(ax: Axes, panel: str, step: str, points: pd.DataFrame, label: str, style: Style) -> None:
    if points.empty:
        return
    by_step = points.groupby("step")["loss"].agg(["mean", "min", "max"])
    steps = by_step.index.to_numpy()
    ax.fill_between(steps, by_step["min"], by_step["max"], color=style.color, alpha=0.15, linewidth=0)
    ax.plot(steps, by_step["mean"], markevery=max(1, len(steps) // 8), label=style.label(label), **style.line)
    keep(ax, panel, label, **{step: steps}, value=by_step["mean"].array, low=by_step["min"].array, high=by_step["max"].array)
