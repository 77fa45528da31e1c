"""The figures of the metrics of control: sensitivity to actions by lag, and imposed actions against those read from imagined frames."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import numpy as np

from diamond_bench.metrics.action_sensitivity import lag_ratios
from diamond_bench.metrics.header import ESTIMATE_LEVELS, Figure
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, stored_arrays, stored_file
from diamond_bench.report.looks import variant_looks
from diamond_bench.report.mode_figures import from_evaluations
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import Point, SavedPlan

_ROLE, _DESCRIPTION = "inverse_dynamics", "inverse_dynamics/model.json"
_SAME = "estimates_same"
_Draw = Callable[[Figure, SavedPlan, Store, Sequence[Point], str], Drawn | None]


def sensitivity_figures(
    shown: Figure, plan: SavedPlan, store: Store, done: Collection[JobRef], notes: Sequence[str] = ()
) -> Iterator[StudyFigure]:
    """One per game and group of arms, from the finished evaluations `done` that measured sensitivities."""
    return from_evaluations(partial(_draw_sensitivity, shown), shown, plan, store, done, notes)


def confusion_figures(
    shown: Figure, plan: SavedPlan, store: Store, done: Collection[JobRef], notes: Sequence[str] = ()
) -> Iterator[StudyFigure]:
    """One per game and group of arms, from the finished evaluations `done` that read Discrete actions."""
    return from_evaluations(partial(_draw_confusion, shown), shown, plan, store, done, notes)


def _by_variant(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.variant, []).append(point)
    return found


def _draw_sensitivity(shown: Figure, plan: SavedPlan, store: Store, points: Sequence[Point], notes: str) -> Drawn | None:
    from analysis.control_figures import sensitivity_figure

    lines, windows, seeds = {}, [], []
    for variant, of in _by_variant(points).items():
        stored = [stored_arrays(store, point.jobs["evaluation"], "arrays.npz", shown.array, _SAME, optional=True) for point in of]
        if not all(_SAME in one for one in stored):  # an earlier version compared other windows
            continue
        ratios = [lag_ratios(one[shown.array], one[_SAME]) for one in stored]
        if np.isinf(ratios).any():  # a perfect model has no finite ratio
            continue
        lines[variant] = np.mean(ratios, axis=0)
        windows += [len(one[shown.array]) for one in stored]
        seeds.append(len(of))
    if not lines:
        return None
    figure = sensitivity_figure(ESTIMATE_LEVELS, lines, variant_looks(plan))
    basis = f"{range_words(windows, 'window', 'windows')}, mean of {range_words(seeds, 'seed', 'seeds')}, scale {plan.scale}"
    meaning = "lag 0 is the action that leads to the frame; other lags use the windows in which their action equals that of lag 0"
    return annotated(figure, plan, points[0].game, meaning, basis, notes)


def _draw_confusion(shown: Figure, plan: SavedPlan, store: Store, points: Sequence[Point], notes: str) -> Drawn | None:
    import json

    from analysis.control_figures import confusion_figure
    from diamond_bench.metrics.action_reader import read_code

    panels, counts = {}, []
    for variant, of in _by_variant(points).items():
        stored = [stored_arrays(store, point.jobs["evaluation"], "arrays.npz", shown.array, optional=True) for point in of]
        if not all(stored):  # its actions are not Discrete
            return None
        panels[variant] = np.sum([one[shown.array].sum(axis=0) for one in stored], axis=0)
        counts.append(int(panels[variant].sum()))
    code = read_code(json.loads(stored_file(store, points[0].jobs[_ROLE], _DESCRIPTION)))
    figure = confusion_figure(panels, code.class_names)
    basis = f"{range_words(counts, 'imagined transition', 'imagined transitions')} per variant, all seeds, scale {plan.scale}"
    return annotated(figure, plan, points[0].game, "each row sums to 1", basis, notes)
