"""The figure of minimum detectable effects against the number of seeds: numbers in, a figure out."""

import textwrap
from collections.abc import Mapping
from functools import partial

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis.figures import RC, styles

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
) -> Figure:
    """Minimum detectable effect against seeds, on logarithmic axes: one line per comparison.

    `more_references`: further lines in grey, for more episodes of references. `own`: the study's own number of seeds, drawn as a dotted
    vertical line. `margin`: the smallest difference that matters, drawn as a dash-dotted horizontal line, or 0 for none. All differences
    are multiplied by `scale`. `hours_per_seed`: device hours of one seed, for a second axis above. Effects that are infinite (no test can
    detect them) or 0 are left out. Raises ValueError if nothing remains.
    """
    found = {label: _drawable(line, scale) for label, line in {**effects, **more_references}.items()}
    if not any(found.values()):
        raise ValueError("no difference can be detected with any of these numbers of seeds")
    looks = styles(list(effects))
    seeds = sorted({n for line in {**effects, **more_references}.values() for n in line} | {own})
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        ax = figure.add_subplot()
        for label, line in found.items():
            shown = textwrap.fill(label, 30)
            if label in effects:
                look = looks[label]
                ax.plot(list(line), list(line.values()), color=look.color, linestyle=look.linestyle, marker=look.marker, label=shown)
            else:
                grey = 0.35 + 0.3 * list(more_references).index(label) / max(1, len(more_references))
                ax.plot(list(line), list(line.values()), color=str(grey), linewidth=1.0, linestyle="--", marker=".", label=shown)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.axvline(own, color="0.45", linewidth=1.0, linestyle=":", label=f"this study ({own} seeds)")
        if margin > 0:
            ax.axhline(margin * scale, color="0.2", linewidth=1.0, linestyle="-.", label=f"margin ({margin * scale:.3g})")
        ax.set_xlim(seeds[0] / 1.15, seeds[-1] * 1.15)
        ax.xaxis.set_major_locator(FixedLocator(_apart(seeds, own)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set(xlabel="seeds on each side", ylabel=textwrap.fill(ylabel, 44))
        if hours_per_seed:
            above = ax.secondary_xaxis("top", functions=(partial(np.multiply, hours_per_seed), partial(np.multiply, 1.0 / hours_per_seed)))
            above.set_xlabel("device hours of all seeds")
            above.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            above.xaxis.set_minor_formatter(NullFormatter())
            above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3.0)
    return figure


def _drawable(line: Mapping[int, float], scale: float) -> dict[int, float]:
    return {seeds: effect * scale for seeds, effect in sorted(line.items()) if np.isfinite(effect) and effect > 0}


def _apart(seeds: list[int], own: int) -> list[int]:
    """The numbers that have room for a tick label. The study's own number always has one."""
    return [n for n in seeds if n == own or abs(np.log(n / own)) > 0.15]
