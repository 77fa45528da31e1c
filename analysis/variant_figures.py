"""Unordered variants: one row for each variant and one panel for each metric."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import RC, styles


def variant_figure(
    points: pd.DataFrame, *, labels: Mapping[str, str] | None = None, baselines: Mapping[str, float] | None = None
) -> Figure:
    """Each group's score in each metric, with intervals if there are several seeds.

    `points`: columns metric, group, mean, low, high, as `curves.mean_points` returns them. `labels`: titles of panels that differ from the
    metric's name. `baselines`: by metric, the score of repeating the last frame. Raises ValueError without points.
    """
    if points.empty:
        raise ValueError("a figure of variants needs points")
    metrics, groups = list(points["metric"].unique()), [str(group) for group in points["group"].unique()]
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    looks = styles(groups)
    with matplotlib.rc_context(RC):
        height = rows * (0.24 * len(groups) + 0.75) + 0.3
        figure = Figure(figsize=(2.3 * columns + 0.075 * max(map(len, groups)), height), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for ax, metric in zip(panels.flat, metrics, strict=False):
            of_metric = points[points["metric"] == metric].assign(group=lambda table: table["group"].astype(str)).set_index("group")
            for row, group in enumerate(groups):
                if group not in of_metric.index:
                    continue
                score, look = of_metric.loc[group], looks[group]
                if np.isfinite([score["low"], score["high"]]).all():
                    ax.plot([score["low"], score["high"]], [row, row], color=look.color, linewidth=1.0)
                ax.plot([score["mean"]], [row], color=look.color, marker=look.marker, linestyle="none")
            if np.isfinite((baselines or {}).get(metric, np.nan)):
                ax.axvline((baselines or {})[metric], color="0.45", linewidth=1.0, linestyle="-.", label="copy last frame")
            ax.set(title=(labels or {}).get(metric, metric))
            ax.set_yticks(range(len(groups)), groups)
            ax.set_ylim(len(groups) - 0.4, -0.6)
            ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        for ax in panels.flat[len(metrics) :]:
            ax.remove()
        handles = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if handles:
            figure.legend(list(handles.values()), list(handles), loc="outside upper center", frameon=False)
    return figure
