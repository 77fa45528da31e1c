"""Unordered variants: one row for each variant and one panel for each metric."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd

from analysis.chart import COPY_LAST, RC, REFERENCE, Chart, fitted, keep, shared_legend
from analysis.figures import Looks
from analysis.looks import styles


def variant_figure(
    points: pd.DataFrame,
    *,
    labels: Mapping[str, str] | None = None,
    baselines: Mapping[str, float] | None = None,
    looks: Looks | None = None,
) -> Chart:
    """Each group's score in each metric, with intervals if there are several seeds.

    `points`: columns metric, group, mean, low, high, as `curves.mean_points` returns them. `labels`: titles of panels that differ from the
    metric's name. `baselines`: by metric, the score of repeating the last frame. `looks`: by group, otherwise by place. Raises ValueError
    without points.
    """
    if points.empty:
        raise ValueError("a figure of variants needs points")
    metrics, groups = list(points["metric"].unique()), [str(group) for group in points["group"].unique()]
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    looks = looks or styles(groups)
    names = [fitted(looks[group].label(group), 3.0) for group in groups]
    with matplotlib.rc_context(RC):
        lines = sum(name.count("\n") + 1 for name in names)
        longest = max(len(line) for name in names for line in name.split("\n"))
        height = rows * (0.08 * len(groups) + 0.16 * lines + 0.75) + 0.3
        figure = Chart(figsize=(2.3 * columns + 0.075 * longest, height), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for ax, metric in zip(panels.flat, metrics, strict=False):
            title = (labels or {}).get(metric, metric)
            of_metric = points[points["metric"] == metric].assign(group=lambda table: table["group"].astype(str)).set_index("group")
            for row, group in enumerate(groups):
                if group not in of_metric.index:
                    continue
                score, look = of_metric.loc[group], looks[group]
                if np.isfinite([score["low"], score["high"]]).all():
                    ax.plot([score["low"], score["high"]], [row, row], color=look.color, linewidth=1.0)
                ax.plot([score["mean"]], [row], linestyle="none", **look.point)
                keep(ax, title, group, value=score["mean"], low=score["low"], high=score["high"])
            if np.isfinite((baselines or {}).get(metric, np.nan)):
                ax.axvline((baselines or {})[metric], color=REFERENCE, linewidth=1.0, linestyle="-.", label=COPY_LAST)
                keep(ax, title, COPY_LAST, value=(baselines or {})[metric])
            ax.set(title=fitted(title, 2.3))
            ax.set_yticks(range(len(groups)), names)
            ax.set_ylim(len(groups) - 0.4, -0.6)
            ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        for ax in panels.flat[len(metrics) :]:
            ax.remove()
        shared_legend(figure)
    return figure
