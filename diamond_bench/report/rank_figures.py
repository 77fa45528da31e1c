"""The figure of rank histograms: which rank the true block-mean luminance has among the sampled futures."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial

import numpy as np

from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, slug, stored_arrays
from diamond_bench.report.mode_figures import group_of, line_of, steps_of
from diamond_bench.studies.jobspec import JobRef
from diamond_bench.studies.plan import Point, SavedPlan
from diamond_bench.studies.store import Store


def rank_figures(plan: SavedPlan, store: Store, done: Collection[JobRef], notes: Sequence[str] = ()) -> Iterator[StudyFigure]:
    """One per game and group of arms, from the finished evaluations `done` that counted ranks."""
    counted = [point for point in plan.points if point.jobs["evaluation"] in done]
    for game in dict.fromkeys(point.game for point in counted):
        of_game = [point for point in counted if point.game == game]
        for group in dict.fromkeys(group_of(point.arm) for point in of_game):
            points = [point for point in of_game if group_of(point.arm) == group]
            stem = "-".join(part for part in ("ranks", slug(game), slug(group)) if part)
            title = ", ".join(part for part in (f"Ranks of the truth among samples: {game}", group) if part)
            yield StudyFigure(stem, "ranks", title, "", partial(_draw, plan, store, points, "; ".join(notes)))


def _draw(plan: SavedPlan, store: Store, points: Sequence[Point], notes: str) -> Drawn | None:
    from analysis.rank_figures import rank_figure

    panels: dict[str, dict[str, list[np.ndarray]]] = {}
    for point in points:
        arrays = stored_arrays(store, point.jobs["evaluation"], "arrays.npz", "samples_ranks", optional=True)
        if not arrays:
            return None
        of_panel = panels.setdefault(line_of(plan, point), {})
        of_panel.setdefault(steps_of(plan, point), []).append(arrays["samples_ranks"].sum(axis=0))
    if len({len(counts) for lines in panels.values() for rows in lines.values() for counts in rows}) > 1:
        return None  # other numbers of samples have other ranks
    sums = {panel: {label: np.sum(rows, axis=0) for label, rows in lines.items()} for panel, lines in panels.items()}
    basis = range_words((len(rows) for lines in panels.values() for rows in lines.values()), "seed", "seeds")
    what = "mean luminance of 16 blocks of each sampled frame, equal values ranked at random; dotted: samples of the true distribution"
    return annotated(rank_figure(sums), plan, points[0].game, f"{basis} pooled, scale {plan.scale}", what, notes)
