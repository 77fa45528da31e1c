"""The figures of a study, from its finished jobs: drift against t and against the training, quality against NFE, grids of trajectories.

A figure varies one axis of the study (and the number of steps); every other axis stands at one value. The figure without a suffix has
the last value of each; one more figure is offered for every other combination of values (`-at-...`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_bench.metrics import all_metrics
from diamond_bench.metrics.baselines import COPY_LAST
from diamond_bench.metrics.columns import METRIC_INFO, metric_label, within_bounds
from diamond_bench.metrics.header import Figure
from diamond_bench.metrics.metric import Metric
from diamond_bench.report.agent_figures import agent_figures
from diamond_bench.report.control_figures import confusion_figures, sensitivity_figures
from diamond_bench.report.dose_figures import dose_figures
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, slug, stored_arrays
from diamond_bench.report.facts import calls_compare, families_of
from diamond_bench.report.gap_figures import gap_figures
from diamond_bench.report.looks import baseline_names, variant_looks
from diamond_bench.report.mode_figures import group_of, means_of_variants, mode_figures, threshold_figures
from diamond_bench.report.outcome_figures import outcome_figures
from diamond_bench.report.rank_figures import rank_figures
from diamond_bench.report.state_figures import draw_states
from diamond_bench.report.survival_figures import survival_figures
from diamond_bench.report.training_figures import training_figures
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.baselines import shared_variant
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    import pandas as pd

_STEPS, _MILESTONE = "sampler.num_steps", "evaluation.milestone"
_DRAWN_KIND = "evaluate_world_model"

_OF_ARRAYS = {
    "thresholds": threshold_figures,
    "ranks": rank_figures,
    "survival": survival_figures,
    "outcomes": outcome_figures,
    "sensitivity": sensitivity_figures,
    "confusion": confusion_figures,
}
"""The functions of figures that show arrays of each evaluation, by the kind of figure."""

View = dict[str, Any]
"""The value at which each axis stands that a figure does not vary."""


@dataclass(frozen=True)
class Line:
    """One line of a drift figure, one row of a grid: a variant on one game, its finished seeds."""

    label: str
    arm: str
    points: tuple[Point, ...]

    @property
    def seeds(self) -> set[int]:
        """Those that are finished."""
        return {point.seed for point in self.points}

    @property
    def words(self) -> list[str]:
        """Its arm (within its group) and, where an axis varies, its label."""
        arm = self.arm.partition("/")[2] or self.arm
        return [word for word in (arm, "" if self.label == self.arm else self.label) if word]


def study_figures(
    plan: SavedPlan, store: Store, table: "pd.DataFrame", done: Collection[JobRef], notes: Sequence[str] = ()
) -> Iterator[StudyFigure]:
    """Every figure that the finished jobs (`done`) of a plan offer; nothing is drawn before it is asked for."""
    said, used = "; ".join(notes), Counter[str]()

    def figure(kind: str, game: str, group: str, view: View, last: View, draw: Callable[[], Drawn | None]) -> StudyFigure:
        aside = {name: value for name, value in view.items() if str(value) != str(last[name])}
        suffix = "-".join(f"{slug(name)}-{slug(str(value), keep='.')}" for name, value in aside.items())
        stem = "-".join(part for part in (kind, slug(game), slug(group), f"at-{suffix}" if suffix else "") if part)
        used[stem] += 1
        stem = stem if used[stem] == 1 else f"{stem}-{used[stem]}"  # names that differ in special characters alone
        title = ", ".join(part for part in (f"{_TITLES[kind]}: {game}", group, _at(aside)) if part)
        return StudyFigure(stem, kind, title, _at(aside), draw)

    for game, of_game in finished_points(plan, done).items():
        scores = table[(table["game"] == game) & table["seed"].notna() & (table["kind"] == _DRAWN_KIND)]
        baselines = table[(table["game"] == game) & table["seed"].isna()]
        others = list(plan.axes)[1:]
        last = _last_values(plan, others)
        for view in _views(plan, of_game, others):
            for metric, shown in _curves():
                lines = _measured_lines(metric, shown, table, lines_at(plan, of_game, view))
                if lines:
                    against_t = _curve_figure if shown.kind == "curve" else _state_figure
                    yield figure(shown.stem, game, "", view, last, partial(against_t, shown, plan, store, lines, view, said))
        for group in groups_of(of_game):
            of_group = [point for point in of_game if group_of(point.arm) == group]
            for view in _views(plan, of_group, others):
                members = lines_at(plan, of_group, view)
                if members:
                    yield figure("trajectories", game, group, view, last, partial(_grid_figure, plan, store, members, view, said))
            quality_axes = [name for name in others if plan.axes[name]["key"] != _STEPS]
            for view in _views(plan, of_group, quality_axes):
                draw = partial(_quality_figure, plan, store, scores, of_group, view, baselines, said)
                yield figure("quality", game, group, view, _last_values(plan, quality_axes), draw)
            if any(axis["key"] == _MILESTONE for axis in plan.axes.values()):
                yield figure("training", game, group, {}, {}, partial(_training_figure, plan, scores, of_group, said))
    for shown in (shown for metric in all_metrics().values() for shown in metric.figures):
        jobs = _jobs_with(table, shown.column)  # reading the table for each job would take time quadratic in their number
        measured = {ref for ref in done if ref.id in jobs}
        if shown.kind in ("modes", "gaps"):
            yield from (gap_figures if shown.kind == "gaps" else mode_figures)(shown, plan, table, notes)
        elif shown.kind in _OF_ARRAYS:
            yield from _OF_ARRAYS[shown.kind](shown, plan, store, measured, notes)
    yield from agent_figures(plan, store, table, done, notes)
    yield from dose_figures(plan, store, table, done, notes)
    yield from training_figures(plan, store, done, notes)


def _curves() -> list[tuple[Metric, Figure]]:
    """The figures against t."""
    return [(metric, shown) for metric in all_metrics().values() for shown in metric.figures if shown.kind in ("curve", "objects")]


def _jobs_with(table: "pd.DataFrame", column: str) -> set[str]:
    return set(table.loc[table["metric"] == column, "job"])


def _measured_lines(metric: Metric, shown: Figure, table: "pd.DataFrame", lines: list["Line"]) -> list["Line"]:
    """The lines whose evaluations all measured the metric."""
    if metric.always:
        return lines
    jobs = _jobs_with(table, shown.column)
    return [line for line in lines if all(point.jobs["evaluation"].id in jobs for point in line.points)]


_TITLES = {
    **{shown.stem: shown.title for _, shown in _curves()},
    "trajectories": "Trajectories",
    "quality": "Quality against network calls",
    "training": "Drift against the training",
}


def finished_points(plan: SavedPlan, done: Collection[JobRef]) -> dict[str, list[Point]]:
    """By game, the points whose evaluation is finished and has curves and frames to draw."""
    found: dict[str, list[Point]] = {}
    for point in plan.points:
        evaluation = point.jobs.get("evaluation")
        if evaluation is not None and evaluation.kind == _DRAWN_KIND and evaluation in done:
            found.setdefault(point.game, []).append(point)
    return found


def groups_of(points: Iterable[Point]) -> list[str]:
    """The groups of arms (`group/name`), '' for arms without one."""
    return list(dict.fromkeys(group_of(point.arm) for point in points))


def main_lines(plan: SavedPlan, points: Sequence[Point], group: str) -> list[Line]:
    """The lines of a group at the last value of each other axis; where nothing of it is finished, at the first values that are."""
    of_group = [point for point in points if group_of(point.arm) == group]
    for view in _views(plan, of_group, list(plan.axes)[1:]):
        return lines_at(plan, of_group, view)
    return []


def _views(plan: SavedPlan, points: Sequence[Point], axes: Sequence[str]) -> list[View]:
    """The combinations of values of these axes that the points have: the last values first, then in the order of the plan."""
    last = _last_values(plan, axes)
    found = {str(view): view for point in points for view in ({name: point.axes[name] for name in axes},)}
    first = [found.pop(str(last))] if str(last) in found else []
    return first + list(found.values())


def _last_values(plan: SavedPlan, axes: Iterable[str]) -> View:
    """The last value of each of these axes, as the plan has it; of arms that fix an axis elsewhere, as most arms have it."""
    found = {}
    for name in axes:
        by_arm = {point.arm: point.axes[name] for point in plan.points}  # the last one stands
        common = Counter(map(str, by_arm.values())).most_common(1)[0][0]
        found[name] = next(value for value in by_arm.values() if str(value) == common)
    return found


def _at(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def lines_at(plan: SavedPlan, points: Sequence[Point], view: View) -> list[Line]:
    """The variants of a view, along the first axis."""
    first = next(iter(plan.axes), None)
    found = []
    for variant in dict.fromkeys(point.variant for point in points):
        same = tuple(point for point in points if point.variant == variant)
        if all(same[0].axes[name] == value for name, value in view.items()):
            label = variant if first is None else _at({first: same[0].axes[first]})
            found.append(Line(label, same[0].arm, same))
    return found


def shared_seed(lines: Sequence[Line]) -> int | None:
    """The least seed that all lines have."""
    return min(set.intersection(*(line.seeds for line in lines)), default=None)


def picture_of(line: Line, store: Store, seed: int | None) -> dict[str, np.ndarray]:
    """Frames kept of a line's evaluation with this seed (its first one, where it has none such): true and imagined, uint8
    (pictured, T, h, w, 3)."""
    point = next((point for point in line.points if point.seed == seed), line.points[0])
    return stored_arrays(store, point.jobs["evaluation"], "media/frames.npz", "true", "imagined")


def _curve_figure(shown: Figure, plan: SavedPlan, store: Store, lines: Sequence[Line], view: View, notes: str) -> Drawn:
    from analysis.curves import band_words, mean_curve
    from analysis.figures import DriftPanel, drift_figure

    looks, panels, trajectories, episodes = variant_looks(plan), [], set[int](), set[int]()
    by_arm = len({line.arm for line in lines}) < len(lines) or len(lines) == 1
    for panel in dict.fromkeys(line.arm if by_arm else group_of(line.arm) for line in lines):
        curves, of_variant = {}, {}
        of_panel = [line for line in lines if (line.arm if by_arm else group_of(line.arm)) == panel]
        for line in of_panel:
            jobs = [point.jobs["evaluation"] for point in line.points]
            stored = [stored_arrays(store, job, "arrays.npz", shown.array, "episodes", optional=True) for job in jobs]
            curve = mean_curve(np.stack([one[shown.array] for one in stored]), episodes=stored[0].get("episodes"))
            label = line.label if by_arm else ", ".join(line.words)
            curves[label], of_variant[label] = curve, looks[line.points[0].variant]
            trajectories.add(curve.num_trajectories)
            episodes.add(curve.num_episodes)
        first = of_panel[0].points[0]
        copied = unrelated = None
        if shared_variant(plan, [point for line in of_panel for point in line.points], COPY_LAST):
            evaluation = first.jobs["evaluation"]
            copied = stored_arrays(store, evaluation, "arrays.npz", f"copy_{shown.array}")[f"copy_{shown.array}"].mean(axis=0)
            others = stored_arrays(store, evaluation, "arrays.npz", f"unrelated_{shown.array}", optional=True)  # one reference has none
            unrelated = float(others[f"unrelated_{shown.array}"].mean()) if others else None
        panels.append(DriftPanel(f"{first.game}{f': {panel}' if panel else ''}", curves, unrelated, copied, of_variant))
    band = band_words(curve for panel in panels for curve in panel.curves.values())
    seeds = [len(line.seeds) for line in lines]
    origin = f"{range_words(trajectories, 'trajectory', 'trajectories')} from {range_words(episodes, 'episode', 'episodes')}"
    basis = f"{origin}, {range_words(seeds, 'seed', 'seeds')}, scale {plan.scale}"
    return annotated(drift_figure(panels, ylabel=shown.words), plan, _at(view), basis, band, notes)


def _state_figure(shown: Figure, plan: SavedPlan, store: Store, lines: Sequence[Line], view: View, notes: str) -> Drawn:
    by_arm: dict[str, list[tuple[str, Sequence[Point]]]] = {}
    for line in lines:
        by_arm.setdefault(line.arm, []).append((line.label, line.points))
    return draw_states(plan, store, list(by_arm.values()), _at(view), notes)


def _grid_figure(plan: SavedPlan, store: Store, lines: Sequence[Line], view: View, notes: str) -> Drawn:
    from analysis.figures import trajectory_figure

    seed, compared = shared_seed(lines), baseline_names(plan)
    true, imagined = None, {}
    for line in lines:
        kept = picture_of(line, store, seed)
        if true is not None and not np.array_equal(true, kept["true"][0]):
            raise ValueError("its rows would be of different true trajectories")
        true = kept["true"][0]
        own = [] if seed is not None else [f"seed {line.points[0].seed}"]
        also = ["(baseline)"] if line.points[0].variant in compared else []
        imagined["\n".join([*line.words, *own, *also])] = kept["imagined"][0]
    assert true is not None
    figure = trajectory_figure(true, imagined, frame_times(len(true)))
    what = f"{lines[0].points[0].game}, one held-out trajectory{'' if seed is None else f', seed {seed}'}, same start and actions"
    return annotated(figure, plan, what, _at(view), f"scale {plan.scale}", notes)


def frame_times(horizon: int, most: int = 9) -> list[int]:
    """Frames shown of a trajectory: 1, then about evenly in the logarithm of t, up to the last."""
    return sorted({int(t) for t in np.geomspace(1, horizon, min(most, horizon)).round()})


def _quality_figure(
    plan: SavedPlan,
    store: Store,
    scores: "pd.DataFrame",
    points: Sequence[Point],
    view: View,
    baselines: "pd.DataFrame",
    notes: str,
) -> Drawn | None:
    """Quality against NFE: a line per arm and value of the first axis, except where that is the number of steps. `baselines` are the game's
    rows without a seed; copy-last-frame is drawn if all points share one. Where each group takes one number of calls, a row per group,
    with the calls if those of the groups compare. The first panel is of the primary metric."""
    from analysis.curves import interval_words, mean_points
    from analysis.figures import quality_figure
    from analysis.variant_figures import variant_figure

    first = [name for name in list(plan.axes)[:1] if plan.axes[name]["key"] != _STEPS]
    points = [point for point in points if all(point.axes[name] == value for name, value in view.items())]
    groups = {
        point.variant: ", ".join(part for part in (point.arm, _at({name: point.axes[name] for name in first})) if part) or plan.study
        for point in points
    }
    metrics = list(dict.fromkeys([plan.primary["metric"], *(name for name, column in METRIC_INFO.items() if column.drawn)]))
    shared = {metric: shared_variant(plan, points, COPY_LAST, metric) for metric in metrics}
    copied: dict[Any, float] = baselines[baselines["variant"] == baselines["metric"].map(shared)].set_index("metric")["value"].to_dict()
    nfe = scores[scores["metric"] == "nfe_per_frame"].drop_duplicates("job").set_index("job")["value"]
    shown = scores[scores["variant"].isin(groups) & scores["metric"].isin(metrics)]
    table, looks = _points(shown, shown["metric"], shown["variant"].map(groups), shown["job"].map(nfe), metrics), variant_looks(plan)
    if table["nfe"].isna().all():  # of frames that were given, nobody knows the number of calls
        return None
    seeds = table.groupby(["metric", "group", "nfe"])["seed"].nunique()
    basis = range_words(seeds, "seed", "seeds")
    caption = (points[0].game, _at(view), f"{basis}, scale {plan.scale}", interval_words(seeds), notes)
    labels = {metric: metric_label(metric) for metric in metrics}
    without = sorted(set(table.loc[table["nfe"] < 1, "group"]))
    if (table["group"].nunique() > 1 or without) and (table.groupby("group")["nfe"].nunique() == 1).all():
        compare = _calls_compare(plan, store, points, table["variant"])
        calls = table["nfe"].map(lambda n: f"{n:g} call{'' if n == 1 else 's'}")
        if compare and calls.nunique() > 1:
            table["group"] = table["group"] + " (" + calls + ")"
        cost = f"network calls per frame: {', '.join(f'{n:g}' for n in sorted(set(table['nfe'])))}" if compare else ""
        of_group = {group: looks[variant] for group, variant in zip(table["group"], table["variant"], strict=True)}
        figure = variant_figure(within_bounds(mean_points(table)), labels=labels, baselines=copied, looks=of_group)
        return annotated(figure, plan, *caption, cost)
    left_out = [f"without a network, so not drawn: {', '.join(without)}"] if without else []
    with_calls = table[table["nfe"] >= 1]
    compare = _calls_compare(plan, store, points, with_calls["variant"])
    left_out += [] if compare else ["network calls of different families do not compare"]
    means = within_bounds(means_of_variants(with_calls))
    return annotated(quality_figure(means, labels=labels, baselines=copied, looks=looks), plan, *caption, *left_out)


def _calls_compare(plan: SavedPlan, store: Store, points: Sequence[Point], variants: Iterable[str]) -> bool:
    drawn = set(variants)
    return calls_compare(families_of(plan, store, [point for point in points if point.variant in drawn]))


def _training_figure(plan: SavedPlan, scores: "pd.DataFrame", points: Sequence[Point], notes: str) -> Drawn | None:
    """Drift against the share of the training: a line for each arm, a panel for each combination of the other axes' values.

    None where no axis is that share.
    """
    from analysis.curves import interval_words
    from analysis.figures import quality_figure

    share = next((name for name, axis in plan.axes.items() if axis["key"] == _MILESTONE), None)
    several = {arm for arm in {p.arm for p in points} if share and len({p.axes[share] for p in points if p.arm == arm}) > 1}
    if share is None or not several:
        return None
    others = [name for name in plan.axes if name != share]
    trained = {point.variant: point for point in points if point.arm in several}
    shown = scores[scores["variant"].isin(trained) & (scores["metric"] == "drift")]
    of = shown["variant"].map(trained)
    percent = of.map(lambda point: 100.0 * point.axes[share])
    panel = of.map(lambda point: _at({name: point.axes[name] for name in others}) or metric_label("drift"))
    table = _points(shown, panel, of.map(lambda point: point.arm or plan.study), percent)
    if table.empty:
        return None
    means = means_of_variants(table)
    means["low"] = means["low"].clip(lower=METRIC_INFO["drift"].low)
    figure = quality_figure(means, xlabel="share of the training (%)", shared_scale=True, looks=variant_looks(plan))
    figure.supylabel(metric_label("drift"), fontsize=9)
    basis = range_words(means["num_seeds"], "seed", "seeds")
    return annotated(figure, plan, points[0].game, f"{basis}, scale {plan.scale}", interval_words(means["num_seeds"]), notes)


def _points(shown: "pd.DataFrame", panel: "pd.Series", group: "pd.Series", x: "pd.Series", panels: Sequence[str] = ()) -> "pd.DataFrame":
    """Finite scores as `analysis.curves.mean_points` takes them, with their variant, those of `panels` first and in that order."""
    import pandas as pd

    columns = {"metric": panel, "group": group, "nfe": x, "seed": shown["seed"], "value": shown["value"], "variant": shown["variant"]}
    points = pd.DataFrame(columns)
    order = {metric: i for i, metric in enumerate(panels)}
    finite: pd.DataFrame = points[np.isfinite(points["value"])]
    return finite.sort_values("metric", key=lambda column: column.map(order), kind="stable")
