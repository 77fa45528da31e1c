"""Rank histograms: counts in, a figure out."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from analysis.chart import RC, Chart, fitted, keep, level, panel_grid, shared_legend
from analysis.figures import Looks
from analysis.looks import styles
from analysis.proper_scores import uniform_band


def rank_figure(panels: Mapping[str, Mapping[str, ArrayLike]], num_starts: int, looks: Mapping[str, Looks] | None = None) -> Chart:
    """Histograms of the truth's rank among K samples, one panel per arm and one line per variant, in units of the uniform histogram.

    `panels`: by title, counts or shares (K + 1,) by label. A sampler of the true distribution lies at 1, a dotted line. Samples that
    differ too little from each other give a U shape, biased samples a slope. A band shows where 95% of the heights of one bin lie by
    chance, with `num_starts` independent ranks. `looks`: by title and label, otherwise by place. Raises ValueError without panels or
    counts.
    """
    if not panels:
        raise ValueError("no panels to draw")
    by_place = styles(list(dict.fromkeys(label for lines in panels.values() for label in lines)), ordered=True)
    with matplotlib.rc_context(RC):
        figure, axes = panel_grid(len(panels), "frequency / uniform")
        for ax, (title, lines) in zip(axes, panels.items(), strict=True):
            for label, counts in lines.items():
                shares = np.asarray(counts, np.float64)
                if not shares.sum():
                    raise ValueError(f"{title}, {label}: a histogram without counts")
                height = shares / shares.sum() * len(shares)
                look = (looks[title] if looks else by_place)[label]
                ax.plot(np.arange(len(shares)), height, label=look.label(label), **look.line)
                keep(ax, title, label, rank=np.arange(len(shares)), value=height)
            band = uniform_band(num_starts, len(shares) - 1)
            ax.axhspan(*band, color="0.6", alpha=0.2, linewidth=0, label="95% by chance")
            keep(ax, title, "95% by chance", low=band[0], high=band[1])
            level(ax, title, 1.0, "uniform")
            ax.set(title=fitted(title, 2.5), xlabel="rank of the truth")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_ylim(bottom=0.0, auto=None)
        shared_legend(figure)
    return figure
