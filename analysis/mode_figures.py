"""Modes against the number of denoiser calls: a DataFrame in, a figure out."""

import textwrap
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import quality_figure


def modes_figure(points: pd.DataFrame, *, labels: Mapping[str, str], truth: Mapping[str, float]) -> Figure:
    """Scores of `analysis.modes` as `figures.quality_figure` draws them. `truth`: by metric, what as many samples of the true distribution
    score, a level line. Raises ValueError without points."""
    titles = {metric: "\n".join(textwrap.wrap(labels.get(metric, metric), 28)) for metric in points["metric"].unique()}
    return quality_figure(points, labels=titles, baselines=truth, baseline="true distribution")
