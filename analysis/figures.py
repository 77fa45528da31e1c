"""The figures of a study: arrays and DataFrames in, matplotlib figures out.

Legible without colour: variants differ by line style and marker too, and ordered ones by lightness.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from analysis.chart import COPY_LAST, RC, REFERENCE, Chart, fitted, keep, level, shared_legend, side_legend
from analysis.curves import Curve
from analysis.looks import LINES, Style, styles

_FAR = 3.0
"""A curve whose highest mean is this many times the reference is left to run out of a drift figure."""
Looks = Mapping[str, Style]
"""The look of each name in a figure; names without one get one by their place."""


def draw_drift(
    curves: Mapping[str, Curve],
    ax: Axes | None = None,
    *,
    title: str = "",
    unrelated: float | None = None,
    copy_last: ArrayLike | None = None,
    ordered: bool = False,
    looks: Looks | None = None,
    ylabel: str = "error",
    top: float | None = None,
) -> Axes:
    """Draws drift, or another error, against t, with a line and band per variant (in the mapping's order).

    `unrelated`: the error between unrelated true frames, at which a prediction has lost all information about the trajectory. `copy_last`
    (t,): the error of repeating the last true frame, which is left out if a variant of that name shows it. `looks`: by name, otherwise by
    place. `top`: the end of the y axis. The legend says which curves leave it.
    """
    if not curves:
        raise ValueError("no curves to draw")
    with matplotlib.rc_context(RC):
        ax = ax or Chart(figsize=(6.4, 3.2), layout="constrained").add_subplot()
        for i, (name, style) in enumerate((looks or styles(list(curves), ordered)).items()):
            if name in curves:
                draw_curve(ax, title, name, curves[name], style, i / len(curves), top=np.inf if top is None else top)
        if copy_last is not None and COPY_LAST not in curves:
            draw_reference(ax, title, COPY_LAST, copy_last, "-.")
        if unrelated is not None:
            level(ax, title, unrelated, "unrelated true frames")
        ax.set(xlabel="imagined frame t", ylabel=fitted(ylabel, 3.0), title=fitted(title, 6.0))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylim(0.0, top, auto=None)  # without `top`, a shared axis keeps growing with later panels
        ax.margins(x=0.01)
        side_legend(ax)
    return ax


def draw_curve(
    ax: Axes,
    panel: str,
    name: str,
    curve: Curve,
    style: Style,
    shift: float = 0.0,
    limits: tuple[float, float] = (-np.inf, np.inf),
    top: float = np.inf,
) -> None:
    """A curve against t with its band, kept for the figure's numbers. Bands end at `limits`. The legend says where the curve exceeds `top`.

    `shift` in [0, 1) moves its markers, so that those of different lines stand at different t.
    """
    t = np.arange(1, len(curve.mean) + 1)
    above = t[curve.mean > top]
    label = style.label(name) + (f" (above the axis from t={above[0]})" if len(above) else "")
    every = max(1, len(t) // 8)
    low, high = curve.low.clip(*limits), curve.high.clip(*limits)
    ax.fill_between(t, low, high, color=style.color, alpha=0.15, linewidth=0)
    ax.plot(t, curve.mean, label=label, markevery=(int(shift * every) % len(t), every), **style.line)
    keep(ax, panel, name, t=t, value=curve.mean, low=low, high=high)


def draw_reference(ax: Axes, panel: str, name: str, values: ArrayLike, linestyle: str) -> None:
    """Values against t that the curves are compared with, in grey."""
    array = np.asarray(values, dtype=np.float64)
    t = np.arange(1, len(array) + 1)
    ax.plot(t, array, color=REFERENCE, linewidth=1.0, linestyle=linestyle, label=name)
    keep(ax, panel, name, t=t, value=array)


@dataclass(frozen=True)
class DriftPanel:
    """The content of one panel of a drift figure; see `draw_drift`."""

    title: str
    curves: Mapping[str, Curve]
    unrelated: float | None = None
    copy_last: ArrayLike | None = None
    looks: Looks | None = None


def drift_figure(panels: Sequence[DriftPanel], *, ordered: bool = False, ylabel: str = "error") -> Chart:
    """Drift or another error against t, with one panel for each arm of the study, all on one scale.

    Curves far above all others leave the axis, so that the others can be read (`_top`).
    """
    if not panels:
        raise ValueError("no panels to draw")
    columns = 1 if len(panels) <= 3 else 2  # one below the other can be read on a phone
    rows, top = -(-len(panels) // columns), _top(panels)
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(6.4 * columns, 3.0 * rows + 0.3), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
        for panel, ax in zip(panels, axes, strict=False):
            draw_drift(
                panel.curves, ax, title=panel.title, unrelated=panel.unrelated, copy_last=panel.copy_last, ordered=ordered,
                looks=panel.looks, ylabel=ylabel, top=top,
            )  # fmt: skip
        for ax in axes[len(panels) :]:
            ax.remove()
    return figure


def _top(panels: Sequence[DriftPanel]) -> float | None:
    """The end of the y axis if some curves rise far above the references and the rest. None: all fit, or there is no reference.

    The rest are the curves within _FAR times the best curve or the highest reference, whichever is higher.
    """
    curves = [curve for panel in panels for curve in panel.curves.values()]
    references = [float(np.max(level)) for panel in panels for level in (panel.unrelated, panel.copy_last) if level is not None]
    if not curves or not references:
        return None
    reference = max(references)
    most = _FAR * max(reference, min(curve.mean.max() for curve in curves))
    kept = [curve for curve in curves if curve.mean.max() <= most]
    if len(kept) == len(curves):
        return None
    highest = max(reference, *(float(curve.mean.max()) for curve in kept))
    bands = max(float(np.nanmax([curve.mean, curve.high])) for curve in kept)
    return 1.05 * max(highest, min(bands, 2 * highest))  # a wide band may end outside too


def quality_figure(
    points: pd.DataFrame,
    *,
    ordered: bool = False,
    labels: Mapping[str, str] | None = None,
    baselines: Mapping[str, float] | None = None,
    baseline: str = COPY_LAST,
    xlabel: str = "network calls per frame (NFE)",
    shared_scale: bool = False,
    looks: Looks | None = None,
) -> Chart:
    """Quality against the number of network calls per frame, with one panel for each metric and one line for each group. Several seeds
    give intervals.

    `points` has columns metric, group, nfe (at least 1; another quantity if `xlabel` says so), mean, low, high, as `curves.mean_points`
    returns them. Every point stands on a tick. With `looks` it also has a column variant, whose look each point has. `labels` has titles
    of panels other than the metric's name. `shared_scale` gives all panels one y axis, for panels of one quantity. `baselines` has, by
    metric, the score of `baseline`: a horizontal line that puts differences into proportion.
    """
    if points.empty or (points["nfe"] < 1).any():
        raise ValueError("quality against NFE needs points, each with an NFE of at least 1")
    metrics, groups = list(points["metric"].unique()), [str(group) for group in points["group"].unique()]
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    by_group = styles(groups, ordered)
    with matplotlib.rc_context(RC):
        figure = Chart(figsize=(max(2.5 * columns, 4.2), 2.3 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=shared_scale)
        for ax, metric in zip(panels.flat, metrics, strict=False):
            title = (labels or {}).get(metric, metric)
            of_metric = points[points["metric"] == metric].assign(group=lambda table: table["group"].astype(str))
            for i, group in enumerate(groups):
                of_group = of_metric[of_metric["group"] == group].sort_values("nfe")
                own = [looks[str(variant)] for variant in of_group["variant"]] if looks else [by_group[group]] * len(of_group)
                if own:
                    _draw_group(ax, title, group, of_group, own, i)
            if np.isfinite((baselines or {}).get(metric, np.nan)):
                level(ax, title, (baselines or {})[metric], baseline, "-.")
            ax.set_xscale("log", base=2)
            number_ticks(ax, sorted(points["nfe"].unique()))
            ax.set(title=fitted(title, figure.get_figwidth() / columns), xlabel=fitted(xlabel, figure.get_figwidth() / columns))
        for ax in panels.flat[len(metrics) :]:
            ax.remove()
        shared_legend(figure, fewest=2)
    return figure


def _draw_group(ax: Axes, panel: str, group: str, points: pd.DataFrame, looks: Sequence[Style], place: int) -> None:
    """A line through the points of a group, each with its own look, and their intervals. Caps of later groups are wider, so that intervals
    at one place can be told apart."""
    x, mean = points["nfe"].to_numpy(np.float64), points["mean"].to_numpy(np.float64)
    low, high = (points[name].to_numpy(np.float64) for name in ("low", "high"))
    middle, different = looks[len(looks) // 2], dict.fromkeys(looks)
    if len(different) == 1:
        ax.plot(x, mean, label=middle.label(group), **middle.line)
    else:
        ax.plot(x, mean, color=middle.color, linestyle=LINES[place % len(LINES)], label=group)
    for look in different:
        own = np.array([look == other for other in looks])
        if len(different) > 1:
            ax.plot(x[own], mean[own], **look.point, linestyle="none", label="baseline of the study" if look.baseline else None)
        own &= np.isfinite(low) & np.isfinite(high)
        reach = np.stack([mean[own] - low[own], high[own] - mean[own]])
        cap = 2.0 + 1.5 * (place % 5)
        ax.errorbar(x[own], mean[own], yerr=reach, fmt="none", ecolor=look.color, elinewidth=1.0, capsize=cap)
    keep(ax, panel, group, x=x, value=mean, low=low, high=high)


def number_ticks(ax: Axes, values: Sequence[float], always: Sequence[float] = (), room: float = 0.1) -> None:
    """A tick at each of these ascending numbers of a logarithmic x axis, with a label where there is room for one and at `always`.

    `room` is the share of the axis that two labels are apart at least.
    """
    shown = [value for value in values if value in always]
    for value in values:
        if all(abs(np.log(value / other)) > room * np.log(values[-1] / values[0]) for other in shown):
            shown.append(value)
    ax.xaxis.set_major_locator(FixedLocator(sorted(shown)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(FixedLocator([value for value in values if value not in shown]))
    ax.xaxis.set_minor_formatter(NullFormatter())


def trajectory_figure(true: NDArray[np.uint8], imagined: Mapping[str, NDArray[np.uint8]], times: Sequence[int]) -> Chart:
    """Frames of one trajectory: the true ones on top, then one row for each variant. Each t in `times` is a column (1 is the first imagined
    frame).

    Frames are uint8 (T, h, w, 3), all of one shape. Raises ValueError for other shapes or dtypes, or a t outside 1..T.
    """
    for name, frames in {"true": true, **imagined}.items():
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape != true.shape:
            raise ValueError(f"{name}: expected uint8 frames (T, h, w, 3) of the true frames' shape, got {frames.dtype} {frames.shape}")
    if not times or min(times) < 1 or max(times) > len(true):
        raise ValueError(f"times={list(times)}: must lie in 1..{len(true)}")
    names = ["true", *imagined]
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        close = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.02, wspace=0.0, hspace=0.0)
        row_height = 0.9 * true.shape[1] / true.shape[2]
        figure = Chart(figsize=(0.9 * len(times) + 1.1, row_height * len(names) + 0.5), layout=close)
        panels = figure.subplots(len(names), len(times), squeeze=False)
        for name, row, frames in zip(names, panels, [true, *imagined.values()], strict=True):
            for ax, t in zip(row, times, strict=True):
                ax.imshow(frames[t - 1], interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
                figure.keep_pixels("", name, t, frames[t - 1])
        for ax, t in zip(panels[0], times, strict=True):
            ax.set_title(f"t = {t}", fontsize=8)
        for ax, name in zip(panels[:, 0], names, strict=True):
            lines = [part for line in name.split("\n") for part in textwrap.wrap(line, 16)]
            ax.set_ylabel("\n".join(lines), rotation=0, ha="right", va="center", fontsize=8)
    return figure
