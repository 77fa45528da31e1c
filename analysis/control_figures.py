"""Figures of how a world model uses its actions: sensitivity by lag and noise level, and imposed actions against those read."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike

from analysis.chart import RC, Chart, fitted, keep, level, panel_grid, shared_legend
from analysis.figures import Looks

_WRITTEN = 6
"""Most actions whose shares are written into the cells."""


def sensitivity_figure(levels: ArrayLike, lines: Mapping[str, ArrayLike], looks: Looks) -> Chart:
    """Error with a replaced action over error with the right ones, against the noise level, one panel per lag and one line per variant.

    `lines`: by label, ratios (lags, levels), not infinite. A model that ignores the action lies at 1, a dotted line. Lags that a variant
    lacks stay empty.
    """
    sigmas = np.asarray(levels, np.float64)
    ratios = {label: np.asarray(values, np.float64) for label, values in lines.items()}
    if not ratios or any(values.shape[1:] != sigmas.shape for values in ratios.values()):
        raise ValueError(f"expected ratios (lags, {len(sigmas)}) of at least one variant")
    with matplotlib.rc_context(RC):
        figure, axes = panel_grid(max(map(len, ratios.values())), "error / error with the right actions")
        for lag, ax in enumerate(axes):
            title = f"action of lag {lag}"
            for label, values in ratios.items():
                if lag < len(values):
                    look = looks[label]
                    ax.plot(sigmas, values[lag], label=look.label(label), **look.line)
                    keep(ax, title, label, sigma=sigmas, value=values[lag])
            level(ax, title, 1.0, "no effect")
            ax.set(title=title, xlabel="noise level", xscale="log", yscale="log")
            ax.set_xticks(sigmas, [f"{sigma:g}" for sigma in sigmas])
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
            ax.yaxis.set_minor_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}" if f"{ratio:e}"[0] in "25" else ""))
        shared_legend(figure)
    return figure


def confusion_figure(panels: Mapping[str, ArrayLike], names: Sequence[str]) -> Chart:
    """Shares of the actions that were read, for each imposed action, one panel per variant.

    `panels`: by title, counts (C, C), row: imposed, column: read. `names`: of the C actions. An action that was never imposed has an empty
    row.
    """
    counts = {title: np.asarray(values, np.float64) for title, values in panels.items()}
    number = len(names)
    if not counts or any(values.shape != (number, number) for values in counts.values()):
        raise ValueError(f"expected counts ({number}, {number}) of at least one variant")
    with matplotlib.rc_context(RC):
        figure, axes = panel_grid(len(counts), "imposed action")
        for ax, (title, values) in zip(axes, counts.items(), strict=True):
            total = values.sum(axis=1, keepdims=True)
            shares = np.divide(values, total, out=np.full_like(values, np.nan), where=total > 0)
            ax.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
            ax.grid(visible=False)
            for i, name in enumerate(names):
                for j, other in enumerate(names):
                    keep(ax, title, f"{name} read as {other}", value=shares[i, j])
                for j in range(number) if number <= _WRITTEN else ():
                    dark = shares[i, j] > 0.6
                    ax.text(j, i, f"{shares[i, j]:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
            ax.set(title=fitted(title, 2.5), xlabel="action read")
            size = min(8.0, 80 / number)
            ax.set_xticks(range(number), names, rotation=90 if number > _WRITTEN else 30, fontsize=size)
            ax.set_yticks(range(number), names, fontsize=size)
    return figure
