"""Scores of predicted rewards and ends against t: numbers in, a figure out."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from analysis.chart import RC, Chart, keep, shared_legend
from analysis.figures import Looks

Scores = Mapping[str, ArrayLike]
"""By "<class>_<score>", a value for each part of the frames. NaN where it is undefined."""


def outcome_figure(
    t: ArrayLike, imagined: Mapping[str, Scores], forced: Mapping[str, Scores], classes: Mapping[str, str], looks: Looks
) -> Chart:
    """A row per class and a column per score: precision, recall and calibration error against t.

    Args:
        t: the middle of each part.
        imagined: scores along imagined frames by variant, solid lines.
        forced: scores along the true frames, dotted lines.
        classes: title by class, in order.
        looks: by variant.

    Raises ValueError without classes or variants.
    """
    if not classes or not imagined:
        raise ValueError("no classes or variants to draw")
    columns = {"precision": "precision", "recall": "recall", "calibration": "calibration error"}
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(7.4, 0.8 + 1.9 * len(classes)), layout="constrained")
        axes = figure.subplots(len(classes), len(columns), squeeze=False, sharex=True, sharey="col")
        for (name, title), row in zip(classes.items(), axes, strict=True):
            for (score, words), ax in zip(columns.items(), row, strict=True):
                panel = f"{title}: {words}"
                for variant, of in imagined.items():
                    solid = {**looks[variant].line, "label": looks[variant].label(variant)}
                    _line(ax, panel, variant, t, of[f"{name}_{score}"], solid)
                for variant, of in forced.items():
                    dotted = {"color": looks[variant].color, "linestyle": ":", "linewidth": 1.0}
                    _line(ax, panel, f"{variant}, true frames", t, of[f"{name}_{score}"], dotted)
                ax.set_ylim(-0.03, 1.03 if score != "calibration" else None)
            row[0].set_ylabel(title)
        for (_, words), ax in zip(columns.items(), axes[0], strict=True):
            ax.set_title(words)
        for ax in axes[-1]:
            ax.set_xlabel("t (frames)")
        shared_legend(figure)
    return figure


def _line(ax: Axes, panel: str, series: str, t: ArrayLike, values: ArrayLike, options: Mapping[str, Any]) -> None:
    x, y = np.asarray(t, np.float64), np.asarray(values, np.float64)
    known = np.isfinite(y)
    ax.plot(x[known], y[known], **options)
    keep(ax, panel, series, t=x[known], value=y[known])
