"""The figure of minimum detectable effects against the number of seeds: numbers in, a figure out."""

from collections.abc import Mapping
from functools import partial

import matplotlib
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.chart import RC, REFERENCE, Chart, fitted, keep, level, side_legend
from analysis.figures import Looks, number_ticks
from analysis.looks import styles

Effects = Mapping[str, Mapping[int, float]]
"""The minimum detectable effect for each number of seeds, by label of a line."""


def power_figure(
    effects: Effects,
    more_references: Effects,
    *,
    ylabel: str,
    own: int,
    margin: float = 0.0,
    scale: float = 1.0,
    hours_per_seed: float | None = None,
    looks: Looks | None = None,
) -> Chart:
    """Minimum detectable effect against seeds, on logarithmic axes: one line per comparison.

    `more_references`: further lines in grey, for more episodes of references. `own`: the study's own number of seeds, drawn as a dotted
    vertical line. `margin`: the smallest difference that matters, drawn as a dash-dotted horizontal line, or 0 for none. All differences
    are multiplied by `scale`. `hours_per_seed`: device hours of one seed, for a second axis above. Effects that are infinite (no test can
    detect them) or 0 are left out. Raises ValueError if nothing remains.
    """
    found = {label: _drawable(line, scale) for label, line in {**effects, **more_references}.items()}
    if not any(found.values()):
        raise ValueError("no difference can be detected with any of these numbers of seeds")
    looks = looks or styles(list(effects))
    seeds = sorted({n for line in {**effects, **more_references}.values() for n in line} | {own})
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(6.4, 3.4), layout="constrained")
        ax = figure.add_subplot()
        for label, line in found.items():
            if label in effects:
                ax.plot(list(line), list(line.values()), label=label, **looks[label].line)
            else:
                grey = 0.35 + 0.3 * list(more_references).index(label) / max(1, len(more_references))
                ax.plot(list(line), list(line.values()), color=str(grey), linewidth=1.0, linestyle="--", marker=".", label=label)
            keep(ax, ylabel, label, seeds=list(line), value=list(line.values()))
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.axvline(own, color=REFERENCE, linewidth=1.0, linestyle=":", label=f"this study ({own} seeds)")
        keep(ax, ylabel, f"this study ({own} seeds)", seeds=own)
        if margin > 0:
            level(ax, ylabel, margin * scale, f"margin ({margin * scale:.3g})", "-.", "0.2")
        ax.set_xlim(seeds[0] / 1.15, seeds[-1] * 1.15)
        number_ticks(ax, seeds, always=[own], room=0.06)
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set(xlabel="seeds on each side", ylabel=fitted(ylabel, 3.0))
        if hours_per_seed:
            above = ax.secondary_xaxis("top", functions=(partial(np.multiply, hours_per_seed), partial(np.multiply, 1.0 / hours_per_seed)))
            above.set_xlabel("device hours of all seeds")
            above.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            above.xaxis.set_minor_formatter(NullFormatter())
            above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side_legend(ax)
    return figure


def _drawable(line: Mapping[int, float], scale: float) -> dict[int, float]:
    return {seeds: effect * scale for seeds, effect in sorted(line.items()) if np.isfinite(effect) and effect > 0}
