"""The figures of rewards and ends in imagination: precision, recall and calibration error against t."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from diamond_bench.metrics.header import Figure
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, stored_arrays
from diamond_bench.report.looks import variant_looks
from diamond_bench.report.mode_figures import from_evaluations
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import Point, SavedPlan


def outcome_figures(
    shown: Figure, plan: SavedPlan, store: Store, done: Collection[JobRef], notes: Sequence[str] = ()
) -> Iterator[StudyFigure]:
    """One per game and group of arms, from the finished evaluations `done` that measured rewards and ends."""
    return from_evaluations(_draw, shown, plan, store, done, notes)


def _draw(plan: SavedPlan, store: Store, points: Sequence[Point], notes: str) -> Drawn | None:
    from analysis.outcome_figures import outcome_figure
    from analysis.outcomes import before_end, parts_of
    from diamond_bench.metrics.outcomes import ARRAYS, scores

    found: dict[str, list[dict[str, np.ndarray]]] = {}
    for point in points:
        found.setdefault(point.variant, []).append(_outcomes(store, point))
    joined = {variant: {name: np.concatenate([run[name] for run in runs]) for name in ARRAYS} for variant, runs in found.items()}
    first = next(iter(joined.values()))
    if len({arrays["ends"].shape[1] for arrays in joined.values()}) > 1:
        return None  # other horizons
    parts = parts_of(first["ends"].shape[1])
    counted = before_end(first["ends"])
    happened = {
        "reward_minus": ("reward −1", first["reward_classes"] == 0),
        "reward_plus": ("reward +1", first["reward_classes"] == 2),
        "end": ("end", first["ends"] > 0),
    }
    classes = {name: title for name, (title, flags) in happened.items() if (flags & counted).any()}
    if not classes:
        return None  # nothing happened
    by_way = []
    for prefix in ("", "true_"):
        of_parts = {variant: [scores(arrays, prefix, part) for part in parts] for variant, arrays in joined.items()}
        by_way.append({variant: {name: [of[name] for of in rows] for name in rows[0]} for variant, rows in of_parts.items()})
    figure = outcome_figure([part.mean() + 1 for part in parts], by_way[0], by_way[1], classes, variant_looks(plan))
    seeds = range_words((len(runs) for runs in found.values()), "seed", "seeds")
    basis = f"{range_words((len(arrays['ends']) for arrays in joined.values()), 'trajectory', 'trajectories')}, {seeds} pooled"
    lines = "solid: along imagined frames, dotted: along the true frames, each up to the first true end"
    return annotated(figure, plan, points[0].game, basis, f"scale {plan.scale}", lines, notes)


def _outcomes(store: Store, point: Point) -> dict[str, np.ndarray]:
    from diamond_bench.metrics.outcomes import ARRAYS

    stored = stored_arrays(store, point.jobs["evaluation"], "arrays.npz", *(f"outcomes_{name}" for name in ARRAYS))
    return {name.removeprefix("outcomes_"): values for name, values in stored.items()}
