"""The primary metric of a study of agents against each setting in which variants differ from the baseline alone, such as a damage."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_bench.metrics.columns import metric_label, within_bounds
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words
from diamond_bench.report.facts import config_of, settings_of
from diamond_bench.report.looks import baseline_names
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import SavedPlan

if TYPE_CHECKING:
    import pandas as pd

_FEWEST = 3
"""Doses that one panel has at least, with the baseline's. Other panels may have two."""
_MOST_GAMES = 7
"""Most games whose lines remain distinguishable."""


def dose_figures(
    plan: SavedPlan, store: Store, table: "pd.DataFrame", done: Collection[JobRef], notes: Sequence[str] = ()
) -> Iterator[StudyFigure]:
    """One figure if a number is varied on its own in several doses, with a panel for each varied number and a line for each game."""
    if plan.protocol != "agent" or len({point.game for point in plan.points}) > _MOST_GAMES:
        return
    scores = table[(table["metric"] == plan.primary["metric"]) & table["seed"].notna() & np.isfinite(table["value"])]
    found = doses(plan, store, done)
    if found and len(scores):
        title = f"{metric_label(plan.primary['metric'])} against the dose"
        yield StudyFigure("doses", "doses", title, "", partial(_draw, plan, scores, found, "; ".join(notes)))


def doses(plan: SavedPlan, store: Store, done: Collection[JobRef]) -> dict[str, dict[str, float]]:
    """By dotted key, the variants that differ from the baseline in this number alone and their values, with those of the baseline."""
    first = {point.variant: point.jobs["agent"] for point in reversed(plan.points) if "agent" in point.jobs}
    configs = {variant: config_of(store, ref) for variant, ref in first.items() if ref in done}
    settings = {variant: settings_of(config, plan.protocol) for variant, config in configs.items() if config is not None}
    (baseline, *others) = [*baseline_names(plan), "", ""][:2]
    if others != [""] or baseline not in settings:
        return {}
    found: dict[str, dict[str, float]] = {}
    base = settings[baseline]
    for variant, own in reversed(settings.items()):  # in the plan's order
        differing = [key for key in own.keys() | base.keys() if own.get(key) != base.get(key)]
        if len(differing) == 1 and _is_number(own.get(differing[0])) and _is_number(base.get(differing[0])):
            found.setdefault(differing[0], {baseline: base[differing[0]]})[variant] = own[differing[0]]
    return found if any(len(values) >= _FEWEST for values in found.values()) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _draw(plan: SavedPlan, scores: "pd.DataFrame", found: dict[str, dict[str, float]], notes: str) -> Drawn:
    import pandas as pd

    from analysis.curves import interval_words, mean_over_seeds
    from analysis.dose_figures import dose_figure

    means = within_bounds(mean_over_seeds(scores.assign(metric=plan.primary["metric"]), ["game", "variant", "metric"]))
    parts = [means.assign(panel=key, dose=means["variant"].map(of_key)) for key, of_key in found.items()]
    points = pd.concat(parts).dropna(subset=["dose"]).rename(columns={"game": "group"})
    basis = f"{range_words(means['num_seeds'], 'seed', 'seeds')}, scale {plan.scale}"
    figure = dose_figure(points, metric_label(plan.primary["metric"]))
    return annotated(figure, plan, "mean over seeds", basis, interval_words(means["num_seeds"]), notes)
