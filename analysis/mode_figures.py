"""Scores of modes against network calls, and shares of samples near a mode against the threshold: numbers in, figures out."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.chart import RC, Chart, fitted, keep, level, panel_grid, shared_legend
from analysis.figures import Looks, quality_figure
from analysis.looks import styles

LARGEST_THRESHOLD = 0.5
"""In units of the distance between the modes: half way from one to the other."""


def modes_figure(points: pd.DataFrame, *, labels: Mapping[str, str], truth: Mapping[str, float], looks: Looks | None = None) -> Chart:
    """Scores of `analysis.modes`, drawn by `figures.quality_figure`. `truth`: by metric, the score of as many samples from the true
    distribution, drawn as a horizontal line. Raises ValueError without points."""
    return quality_figure(points, labels=labels, baselines=truth, baseline="true distribution", looks=looks)


def threshold_figure(
    thresholds: NDArray[np.float64],
    panels: Mapping[str, Mapping[str, NDArray[np.float64]]],
    blur: float | None = None,
    looks: Mapping[str, Looks] | None = None,
) -> Chart:
    """Share of samples within a threshold of the nearest mode, against the threshold: one panel per arm and one line per variant.

    `thresholds` (t,): in units of the distance between the modes. `panels`: by title, shares (t,) by label. The true distribution is a
    horizontal line at 1. `blur`: the threshold from which the mean of the distribution counts as near a mode, drawn as a vertical line.
    `looks`: by title and label, otherwise by place. Raises ValueError without panels.
    """
    if not panels:
        raise ValueError("no panels to draw")
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    by_place = styles(labels, ordered=True)
    with matplotlib.rc_context(RC):
        figure, axes = panel_grid(len(panels), "share within d of a mode")
        for ax, (title, lines) in zip(axes, panels.items(), strict=True):
            for i, (label, shares) in enumerate(lines.items()):
                look = (looks[title] if looks else by_place)[label]
                every = max(1, len(shares) // 8)
                ax.plot(thresholds, shares, label=look.label(label), markevery=(i * every // len(lines), every), **look.line)
                keep(ax, title, label, threshold=thresholds, value=shares)
            level(ax, title, 1.0, "true distribution", "-.")
            if blur is not None:
                ax.axvline(blur, color="0.7", linewidth=0.8)
                keep(ax, title, "mean of the distribution", threshold=blur)
            ax.set(title=fitted(title, 2.5), xlabel="threshold d", ylim=(-0.02, 1.05))
        shared_legend(figure)
    return figure
