"""Figures of object positions in imagined frames: position and presence error against t, one column per object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from analysis.chart import COPY_LAST, RC, Chart, fitted, shared_legend
from analysis.curves import Curve, mean_curve
from analysis.figures import Looks, draw_curve, draw_reference
from analysis.looks import styles


def known_mean_curve(values: ArrayLike, episodes: ArrayLike | None = None) -> Curve:
    """The mean over seeds and trajectories of the known (not NaN) values (seeds, trajectories, t), with its 95% interval.

    It is a ratio of two means, the sum over the number of known values. Its interval is that of its linearisation (delta method), by
    `mean_curve`. NaN at a t without known values. Raises ValueError for another shape, or for infinite values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"a curve needs values (seeds, trajectories, t), got shape {np.shape(values)}")
    known = np.isfinite(array)
    if (~known & ~np.isnan(array)).any():
        raise ValueError("a curve needs values that are finite, or NaN where they are not known")
    any_known = known.any(axis=(0, 1))
    share = known.mean(axis=(0, 1))[any_known]
    filled = np.where(known, array, 0.0)[..., any_known]
    ratio = filled.mean(axis=(0, 1)) / share
    curve = mean_curve(ratio + np.where(known[..., any_known], filled - ratio, 0.0) / share, episodes=episodes) if any_known.any() else None

    def spread(part: NDArray[np.float64] | None) -> NDArray[np.float64]:
        out = np.full(array.shape[-1], np.nan)
        if part is not None:
            out[any_known] = part
        return out

    mean, low, high = (curve.mean, curve.low, curve.high) if curve is not None else (None, None, None)
    about = (curve.num_episodes, curve.random) if curve is not None else (0, None)
    return Curve(spread(mean), spread(low), spread(high), array.shape[0], array.shape[1], "interval", *about)


@dataclass(frozen=True)
class StatePanel:
    """One panel: an error of one object against t."""

    title: str
    label: str
    """Label of the y axis, with its unit."""
    curves: Mapping[str, Curve]
    """One line and band per variant."""
    copy_last: ArrayLike | None = None
    """(t,): the error of repeating the last true frame."""
    floor: ArrayLike | None = None
    """(t,): the probe's own error on the true frames."""
    most: float = np.inf
    """The maximum of the error. Bands are clipped there, and at 0."""
    looks: Looks | None = None


def state_figure(rows: Sequence[Sequence[StatePanel]], *, ordered: bool = False) -> Chart:
    """A grid of panels. Those of a row share the y axis, which begins at 0. Raises ValueError without panels, or for rows of unequal
    length."""
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        raise ValueError("rows of panels, all of one length, are needed")
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(max(3.1 * len(rows[0]), 4.6), 2.2 * len(rows) + 0.7), layout="constrained")
        axes = figure.subplots(len(rows), len(rows[0]), squeeze=False, sharey="row", sharex=True)
        for panels, row in zip(rows, axes, strict=True):
            for panel, ax in zip(panels, row, strict=True):
                title = f"{panel.title}, {panel.label}"
                for i, (name, style) in enumerate((panel.looks or styles(list(panel.curves), ordered)).items()):
                    if name in panel.curves:
                        draw_curve(ax, title, name, panel.curves[name], style, i / len(panel.curves), (0.0, panel.most))
                if panel.copy_last is not None and COPY_LAST not in panel.curves:
                    draw_reference(ax, title, COPY_LAST, panel.copy_last, "-.")
                if panel.floor is not None:
                    draw_reference(ax, title, "probe on the true frames (floor)", panel.floor, ":")
                ax.set_title(fitted(panel.title, 2.8))
                ax.margins(x=0.01)
            row[0].set_ylabel(panels[0].label)
            row[0].set_ylim(bottom=0.0)
        for ax in axes[-1]:
            ax.set_xlabel("imagined frame t")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        shared_legend(figure)
    return figure
