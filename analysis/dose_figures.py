"""Scores against the dose of a treatment."""

import matplotlib
import numpy as np
import pandas as pd

from analysis.chart import RC, Chart, keep, panel_grid, shared_legend
from analysis.looks import styles


def dose_figure(points: pd.DataFrame, ylabel: str) -> Chart:
    """A score against the dose, with one panel for each treatment and one line for each group. All panels share the y axis.

    `points`: columns panel, group, dose, mean, low, high. Points without finite ends have no interval. Raises ValueError without points.
    """
    if points.empty:
        raise ValueError("a figure of doses needs points")
    panels = list(dict.fromkeys(points["panel"]))
    looks = styles([str(group) for group in dict.fromkeys(points["group"])])
    with matplotlib.rc_context(RC):
        figure, axes = panel_grid(len(panels), ylabel)
        for ax, panel in zip(axes, panels, strict=True):
            for place, (group, look) in enumerate(looks.items()):
                of_line = points[(points["panel"] == panel) & (points["group"].astype(str) == group)].sort_values("dose")
                x, mean, low, high = (of_line[name].to_numpy(np.float64) for name in ("dose", "mean", "low", "high"))
                ax.plot(x, mean, label=group, **look.line)
                known = np.isfinite(low) & np.isfinite(high)
                reach = np.stack([mean[known] - low[known], high[known] - mean[known]])
                ax.errorbar(x[known], mean[known], yerr=reach, fmt="none", ecolor=look.color, elinewidth=1.0, capsize=2.0 + 1.5 * place)
                keep(ax, panel, group, x=x, value=mean, low=low, high=high)
            ax.set(title=panel, xlabel="dose")
        shared_legend(figure, fewest=2)
    return figure
