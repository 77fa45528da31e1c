"""Survival and motion under held actions: numbers in, a figure out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from analysis.chart import RC, REFERENCE, Chart, fitted, keep, level, shared_legend
from analysis.figures import Looks
from analysis.survival import Survival

_PARTS = 20
"""Parts of the frames over which a ratio of motion is averaged, at most."""


@dataclass(frozen=True)
class HeldPanel:
    """What is drawn of the play under one kind of action."""

    title: str
    survivals: Mapping[str, Survival]
    """By variant."""
    motion: Mapping[str, NDArray[np.float64]]
    """Motion energy at t = 1, ..., T over that of the game, by variant. NaN where the game has none."""
    game: Survival | None = None
    """The survival of the game itself."""
    train_shares: ArrayLike | None = None
    """Share of training steps after at least t such actions, (T,)."""


def survival_figure(panels: Sequence[HeldPanel], looks: Looks) -> Chart:
    """Draws one column per panel. The upper axes show the share of play that has not collapsed, with its 95% interval. The lower axes show
    the ratio of motion.

    A line ends with the last play that was observed. The ratio has a logarithmic axis, on which 0 has no place, so it is drawn from 0.01
    on. `looks`: by variant. Raises ValueError without panels.
    """
    if not panels:
        raise ValueError("no panels to draw")
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(max(4.2, 3.4 * len(panels)), 4.6), layout="constrained")
        axes = figure.subplots(2, len(panels), squeeze=False, sharex="col", sharey="row")
        for (upper, lower), panel in zip(axes.T, panels, strict=True):
            for name, of in panel.survivals.items():
                t, look = np.flatnonzero(np.isfinite(of.share)), looks[name]
                share, low, high = of.share[t], of.low[t], of.high[t]
                upper.step(t, share, where="post", label=look.label(name), markevery=max(1, len(of.share) // 8), **look.line)
                upper.fill_between(t, low, high, step="post", alpha=0.07, linewidth=0, color=look.color)
                keep(upper, panel.title, name, t=t, value=share, low=low, high=high)
            if panel.game is not None:
                t = np.flatnonzero(np.isfinite(panel.game.share))
                upper.step(t, panel.game.share[t], where="post", color=REFERENCE, linestyle="--", linewidth=1.0, label="the game itself")
                keep(upper, panel.title, "the game itself", t=t, value=panel.game.share[t])
            if panel.train_shares is not None:
                shares = np.asarray(panel.train_shares)
                upper.plot(
                    np.arange(1, len(shares) + 1), shares, color=REFERENCE, linestyle=":", label="training steps after as many no-ops"
                )
                keep(upper, panel.title, "training steps after as many no-ops", t=np.arange(1, len(shares) + 1), value=shares)
            for name, ratio in panel.motion.items():
                middles, means = _averaged(ratio)
                lower.plot(middles, np.maximum(means, 0.01), **looks[name].line)
                keep(lower, f"{panel.title}: motion", name, t=middles, value=means)
            level(lower, f"{panel.title}: motion", 1.0, "as the game")
            upper.set(title=fitted(panel.title, 3.4), ylim=(-0.03, 1.03))
            lower.set(xlabel="t (frames)", yscale="log")
            lower.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            lower.yaxis.set_minor_formatter(NullFormatter())
        axes[0, 0].set_ylabel("share not collapsed")
        axes[1, 0].set_ylabel("motion, imagined / true")
        shared_legend(figure)
    return figure


def _averaged(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle and the mean of consecutive parts of values at t = 1, ..., T."""
    parts = np.array_split(np.arange(len(values)), min(_PARTS, len(values)))
    known = [part[np.isfinite(values[part])] for part in parts]
    return np.array([part.mean() + 1 for part in known if len(part)]), np.array([values[part].mean() for part in known if len(part)])
