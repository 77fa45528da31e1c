"""The figures of the metric `modes`: scores against network calls, and the share of samples near a mode against the threshold."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_bench.metrics import all_metrics
from diamond_bench.metrics.baselines import TRUE_DISTRIBUTION
from diamond_bench.metrics.columns import metric_label, within_bounds
from diamond_bench.metrics.header import Figure
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, slug, stored_arrays
from diamond_bench.report.looks import variant_looks
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.baselines import shared_variant
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    import pandas as pd

_MODES = tuple(name for name, column in all_metrics()["modes"].columns.items() if column.compared or column.headline)
_STEPS = "sampler.num_steps"


def mode_figures(shown: Figure, plan: SavedPlan, table: "pd.DataFrame", notes: Sequence[str] = ()) -> Iterator[StudyFigure]:
    """One a game and group of arms, where evaluations measured modes."""
    scores = table[table["metric"].isin(_MODES) & table["seed"].notna()]
    nfe = table[table["metric"] == "nfe_per_frame"].drop_duplicates("job").set_index("job")["value"].to_dict()
    truths = table[table["seed"].isna()]
    for game in dict.fromkeys(scores["game"]):
        points = {point.variant: point for point in plan.points if point.game == game}
        for group in dict.fromkeys(group_of(point.arm) for point in points.values()):
            lines = {variant: line_of(plan, point) for variant, point in points.items() if group_of(point.arm) == group}
            chosen = scores[(scores["game"] == game) & scores["variant"].isin(lines)]
            shared = shared_variant(plan, [points[variant] for variant in lines], TRUE_DISTRIBUTION)
            of_truth = truths[(truths["game"] == game) & (truths["variant"] == shared)]
            truth = of_truth.set_index("metric")["value"].to_dict()
            if len(chosen):
                stem = "-".join(part for part in (shown.stem, slug(game), slug(group)) if part)
                title = ", ".join(part for part in (f"{shown.title}: {game}", group) if part)
                yield StudyFigure(stem, "modes", title, "", partial(_draw, plan, chosen, lines, nfe, truth, game, "; ".join(notes)))


def threshold_figures(
    shown: Figure, plan: SavedPlan, store: Store, done: Collection[JobRef], notes: Sequence[str] = ()
) -> Iterator[StudyFigure]:
    """One per game and group of arms: the share of samples within a threshold of the nearest mode, against that threshold."""
    return from_evaluations(_draw_thresholds, shown, plan, store, done, notes)


def from_evaluations(
    draw: Callable[[SavedPlan, Store, Sequence[Point], str], Drawn | None],
    shown: Figure,
    plan: SavedPlan,
    store: Store,
    done: Collection[JobRef],
    notes: Sequence[str],
) -> Iterator[StudyFigure]:
    """One figure per game and group of arms. `draw` reads the finished evaluations of its points."""
    measured = [point for point in plan.points if point.jobs["evaluation"] in done]
    for game in dict.fromkeys(point.game for point in measured):
        of_game = [point for point in measured if point.game == game]
        for group in dict.fromkeys(group_of(point.arm) for point in of_game):
            points = [point for point in of_game if group_of(point.arm) == group]
            stem = "-".join(part for part in (shown.stem, slug(game), slug(group)) if part)
            title = ", ".join(part for part in (f"{shown.title}: {game}", group) if part)
            yield StudyFigure(stem, shown.kind, title, "", partial(draw, plan, store, points, "; ".join(notes)))


def _draw_thresholds(plan: SavedPlan, store: Store, points: Sequence[Point], notes: str) -> Drawn | None:
    from analysis.mode_figures import LARGEST_THRESHOLD, threshold_figure
    from analysis.modes import share_within

    thresholds = np.linspace(0.0, LARGEST_THRESHOLD, 129)
    panels: dict[str, dict[str, list[np.ndarray]]] = {}
    looks: dict[str, dict[str, Any]] = {}
    all_looks, minority = variant_looks(plan), 0.0
    for point in points:
        arrays = stored_arrays(store, point.jobs["evaluation"], "arrays.npz", "modes_distances", "modes_probabilities", optional=True)
        if len(arrays) < 2:
            return None
        minority = float(arrays["modes_probabilities"].min())
        panel, label = line_of(plan, point), steps_of(plan, point)
        panels.setdefault(panel, {}).setdefault(label, []).append(share_within(arrays["modes_distances"], thresholds))
        looks.setdefault(panel, {})[label] = all_looks[point.variant]
    curves = {panel: {label: np.mean(rows, axis=0) for label, rows in lines.items()} for panel, lines in panels.items()}
    basis = range_words((len(rows) for lines in panels.values() for rows in lines.values()), "seed", "seeds")
    words = f"dash-dotted: the true distribution, 1 at every threshold; from {minority:g} on, a blur at the mean counts as near a mode"
    figure = threshold_figure(thresholds, curves, blur=minority, looks=looks)
    return annotated(figure, plan, points[0].game, f"mean of {basis}, scale {plan.scale}", words, notes)


def means_of_variants(points: "pd.DataFrame") -> "pd.DataFrame":
    """As `analysis.curves.mean_points`, with the column variant of the points."""
    from analysis.curves import mean_points

    keys = ["metric", "group", "nfe"]
    return mean_points(points).merge(points.drop_duplicates(keys)[[*keys, "variant"]], on=keys, how="left")


def group_of(arm: str) -> str:
    """The group of an arm (`group/name`), empty without one."""
    return arm.partition("/")[0] if "/" in arm else ""


def line_of(plan: SavedPlan, point: Point) -> str:
    """A variant's line: its arm and its value on every axis but the number of steps."""
    others = [f"{name} = {value}" for name, value in point.axes.items() if plan.axes[name]["key"] != _STEPS]
    return ", ".join(part for part in (point.arm, *others) if part) or plan.study


def steps_of(plan: SavedPlan, point: Point) -> str:
    """A variant's number of steps in its panel, as "n = 3"; its name in a study that does not vary them."""
    steps = [f"{name} = {value}" for name, value in point.axes.items() if plan.axes[name]["key"] == _STEPS]
    return ", ".join(steps) or point.variant


def _draw(
    plan: SavedPlan,
    scores: "pd.DataFrame",
    lines: Mapping[str, str],
    nfe: Mapping[Any, float],
    truth: Mapping[Any, float],
    game: str,
    notes: str,
) -> Drawn | None:
    import pandas as pd

    from analysis.curves import interval_words
    from analysis.mode_figures import modes_figure

    columns = {"metric": scores["metric"], "group": scores["variant"].map(lines), "nfe": scores["job"].map(nfe)}
    points = pd.DataFrame({**columns, "seed": scores["seed"], "value": scores["value"], "variant": scores["variant"]})
    points = points[np.isfinite(points["value"]) & (points["nfe"] >= 1)]  # a world without a network has no place on the axis
    if points.empty:
        return None
    order = {metric: number for number, metric in enumerate(_MODES)}
    points = points.sort_values("metric", key=lambda column: column.map(order), kind="stable")
    means = within_bounds(means_of_variants(points))
    basis = range_words(means["num_seeds"], "seed", "seeds")
    figure = modes_figure(means, labels={name: metric_label(name) for name in _MODES}, truth=truth, looks=variant_looks(plan))
    truth_line = "dash-dotted: as many samples of the true distribution"
    return annotated(figure, plan, game, f"{basis}, scale {plan.scale}", truth_line, interval_words(means["num_seeds"]), notes)
