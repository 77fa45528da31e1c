"""Means of several studies side by side. DataFrames in, figures out; legible without colour, as in `figures`."""

import matplotlib
import numpy as np
import pandas as pd

from analysis.chart import RC, Chart, fitted, keep, shared_legend
from analysis.looks import styles


def side_figure(points: pd.DataFrame, xlabel: str) -> Chart:
    """One row for each variant, and in it one marker with its interval for each study that has the variant.

    `points` has the columns study, variant, mean, low, high; low and high are NaN where there is no interval. Raises ValueError without
    points, or for a mean that is not finite.
    """
    if points.empty:
        raise ValueError("no means to draw")
    if not np.isfinite(points["mean"].to_numpy(dtype=np.float64)).all():
        raise ValueError("means need finite values")
    studies, variants = ([str(name) for name in dict.fromkeys(points[column])] for column in ("study", "variant"))
    looks = styles(studies)
    step = 0.6 / max(1, len(studies))
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(6.4, 0.32 * len(variants) * max(1.0, 0.6 * len(studies)) + 1.3), layout="constrained")
        ax = figure.add_subplot()
        for number, study in enumerate(studies):
            own = points[points["study"] == study]
            at = np.array([variants.index(str(name)) for name in own["variant"]]) + step * (number - (len(studies) - 1) / 2)
            reach = np.nan_to_num(np.stack([own["mean"] - own["low"], own["high"] - own["mean"]]).astype(np.float64))
            ax.errorbar(own["mean"], at, xerr=reach, linestyle="none", capsize=2.0, elinewidth=1.0, label=study, **looks[study].point)
            for variant, *ends in own[["variant", "mean", "low", "high"]].itertuples(index=False):
                keep(ax, str(variant), study, **dict(zip(("value", "low", "high"), ends, strict=True)))
        ax.set_yticks(range(len(variants)), [fitted(name, 2.6) for name in variants])
        ax.invert_yaxis()
        ax.set_xlabel(fitted(xlabel, 4.0))
        shared_legend(figure)
    return figure
