"""Scores of modes against denoiser calls, and shares of samples near a mode against the threshold: numbers in, figures out."""

import textwrap
from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures import RC, panel_grid, quality_figure, shared_legend, styles

LARGEST_THRESHOLD = 0.5
"""In units of the distance between the modes: half way from one to the other."""


def modes_figure(points: pd.DataFrame, *, labels: Mapping[str, str], truth: Mapping[str, float]) -> Figure:
    """Scores of `analysis.modes`, drawn by `figures.quality_figure`. `truth`: by metric, the score of as many samples from the true
    distribution, drawn as a horizontal line. Raises ValueError without points."""
    titles = {metric: "\n".join(textwrap.wrap(labels.get(metric, metric), 28)) for metric in points["metric"].unique()}
    return quality_figure(points, labels=titles, baselines=truth, baseline="true distribution")


def threshold_figure(
    thresholds: NDArray[np.float64], panels: Mapping[str, Mapping[str, NDArray[np.float64]]], blur: float | None = None
) -> Figure:
    """Share of samples within a threshold of the nearest mode, against the threshold: one panel per arm and one line per variant.

    `thresholds` (t,): in units of the distance between the modes. `panels`: by title, shares (t,) by label. The true distribution is a
    horizontal line at 1. `blur`: the threshold from which the mean of the distribution counts as near a mode, drawn as a vertical line.
    Raises ValueError without panels.
    """
    if not panels:
        raise ValueError("no panels to draw")
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    looks = styles(labels, ordered=True)
    with matplotlib.rc_context(RC):
        figure, axes = panel_grid(len(panels), "share within d of a mode")
        for ax, (title, lines) in zip(axes, panels.items(), strict=True):
            for label, shares in lines.items():
                ax.plot(thresholds, shares, color=looks[label].color, linestyle=looks[label].linestyle, label=label)
            ax.axhline(1.0, color="0.45", linewidth=1.0, linestyle="-.", label="true distribution")
            if blur is not None:
                ax.axvline(blur, color="0.7", linewidth=0.8)
            ax.set(title="\n".join(textwrap.wrap(title, 28)), xlabel="threshold d", ylim=(-0.02, 1.05))
        shared_legend(figure)
    return figure
