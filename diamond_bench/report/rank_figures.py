"""The figures of rank histograms: which rank the true block-mean luminance, or position of an object, has among the sampled futures."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from diamond_bench.metrics.header import Figure
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, slug, stored_arrays
from diamond_bench.report.looks import variant_looks
from diamond_bench.report.mode_figures import group_of, line_of, steps_of
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import Point, SavedPlan


def rank_figures(
    ranked: Figure, plan: SavedPlan, store: Store, done: Collection[JobRef], notes: Sequence[str] = ()
) -> Iterator[StudyFigure]:
    """One per game and group of arms, from the finished evaluations `done` that counted these ranks."""
    counted = [point for point in plan.points if point.jobs["evaluation"] in done]
    for game in dict.fromkeys(point.game for point in counted):
        of_game = [point for point in counted if point.game == game]
        for group in dict.fromkeys(group_of(point.arm) for point in of_game):
            points = [point for point in of_game if group_of(point.arm) == group]
            stem = "-".join(part for part in (ranked.stem, slug(game), slug(group)) if part)
            title = ", ".join(part for part in (f"{ranked.title}: {game}", group) if part)
            yield StudyFigure(stem, "ranks", title, "", partial(_draw, ranked, plan, store, points, "; ".join(notes)))


def _draw(ranked: Figure, plan: SavedPlan, store: Store, points: Sequence[Point], notes: str) -> Drawn | None:
    from analysis.proper_scores import rank_shares
    from analysis.rank_figures import rank_figure

    starts, all_looks = [], variant_looks(plan)
    looks: dict[str, dict[str, Any]] = {}
    panels: dict[str, dict[str, list[np.ndarray]]] = {}
    for point in points:
        arrays = stored_arrays(store, point.jobs["evaluation"], "arrays.npz", ranked.array, optional=True)
        if not arrays:
            return None
        counts = arrays[ranked.array]
        if not counts.any():  # the probe found no object in all samples
            continue
        starts.append(int(counts.any(axis=1).sum()))
        panel, label = line_of(plan, point), steps_of(plan, point)
        panels.setdefault(panel, {}).setdefault(label, []).append(rank_shares(counts))
        looks.setdefault(panel, {})[label] = all_looks[point.variant]
    if not panels or len({len(counts) for lines in panels.values() for rows in lines.values() for counts in rows}) > 1:
        return None  # other numbers of samples have other ranks
    means = {panel: {label: np.mean(rows, axis=0) for label, rows in lines.items()} for panel, lines in panels.items()}
    basis = range_words((len(rows) for lines in panels.values() for rows in lines.values()), "seed", "seeds")
    what = f"{ranked.words}, equal values ranked at random; dotted: samples of the true distribution"
    band = (
        f"band: 95% by chance with as many independent ranks as starts ({min(starts)}), since the ranks of one start depend on each other"
    )
    return annotated(rank_figure(means, min(starts), looks), plan, points[0].game, f"{basis} pooled, scale {plan.scale}", what, band, notes)
