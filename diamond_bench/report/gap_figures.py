"""The figure of the metric memory_gain: the gain against the gap since a thing was seen, one step ahead and free-running."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from diamond_bench.metrics.columns import metric_label
from diamond_bench.metrics.header import Figure
from diamond_bench.metrics.memory_gain import BINS, GAPS, WAYS
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, slug
from diamond_bench.report.looks import variant_looks
from diamond_bench.report.mode_figures import group_of, means_of_variants
from diamond_bench.studies.plan import SavedPlan

if TYPE_CHECKING:
    import pandas as pd

_PLACES = dict(zip(BINS, (*GAPS, 2 * GAPS[-1]), strict=True))
"""The place of each bin on the axis: its last gap. Longer gaps stand at twice the last one."""


def gap_figures(shown: Figure, plan: SavedPlan, table: "pd.DataFrame", notes: Sequence[str] = ()) -> Iterator[StudyFigure]:
    """One per game and group of arms, where evaluations measured the metric."""
    places = {f"{way}_gain_{name}": (way, place) for way in WAYS for name, place in _PLACES.items()}
    further = {f"memory_{what}_{name}" for what in ("chance", "cells") for name in BINS}
    scores = table[table["metric"].isin({*places, *further}) & table["seed"].notna()]
    for game in dict.fromkeys(scores["game"]):
        points = [point for point in plan.points if point.game == game]
        for group in dict.fromkeys(group_of(point.arm) for point in points):
            variants = {point.variant for point in points if group_of(point.arm) == group}
            chosen = scores[(scores["game"] == game) & scores["variant"].isin(variants)]
            if chosen["metric"].isin(places).any():
                stem = "-".join(part for part in (shown.stem, slug(game), slug(group)) if part)
                title = ", ".join(part for part in (f"{shown.title}: {game}", group) if part)
                yield StudyFigure(stem, "gaps", title, "", partial(_draw, plan, chosen, places, game, "; ".join(notes)))


def _draw(plan: SavedPlan, scores: "pd.DataFrame", places: Mapping[str, tuple[str, int]], game: str, notes: str) -> Drawn | None:
    import pandas as pd

    from analysis.curves import interval_words
    from analysis.figures import quality_figure

    way, gap = (scores["metric"].map({metric: place[part] for metric, place in places.items()}) for part in (0, 1))
    columns = {"metric": way, "group": scores["variant"], "nfe": gap, "seed": scores["seed"], "value": scores["value"]}
    points = pd.DataFrame({**columns, "variant": scores["variant"]})
    points = points[points["metric"].notna() & np.isfinite(points["value"])]
    if points.empty:
        return None
    order = list(WAYS)
    means = means_of_variants(points.sort_values("metric", key=lambda column: column.map(order.index), kind="stable"))
    figure = quality_figure(
        means,
        labels={name: metric_label(f"{name}_gain") for name in WAYS},
        baselines=dict.fromkeys(WAYS, 0.0),
        baseline="best guess without memory",
        xlabel="steps since it was seen, up to",
        shared_scale=True,
        looks=variant_looks(plan),
    )
    words = f"{2 * GAPS[-1]} stands for gaps of {GAPS[-1] + 1} or more"
    words = "; ".join(part for part in (words, _by_chance(scores)) if part)
    basis = range_words(means["num_seeds"], "seed", "seeds")
    return annotated(figure, plan, game, f"{basis}, scale {plan.scale}", words, interval_words(means["num_seeds"]), notes)


def _by_chance(scores: "pd.DataFrame") -> str:
    """The deviations without memory and the numbers of cells one step ahead, of the evaluation where chance is largest. Empty for results
    that lack them."""
    parts = []
    for name in BINS:
        deviation, cells = (scores.loc[scores["metric"] == f"memory_{what}_{name}", "value"] for what in ("chance", "cells"))
        if len(deviation):
            parts.append(f"{name}: {deviation.max():.2g} of {cells.min():g}")
    return f"standard deviation by chance, and seen cells, one step ahead: {', '.join(parts)}" if parts else ""
