"""The figure of the metric `state`: position and presence error of a game's objects against t."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from diamond_bench.envs.games import object_names
from diamond_bench.metrics.baselines import COPY_LAST, STATE_PROBE
from diamond_bench.report.drawing import Drawn, annotated, range_words, stored_arrays
from diamond_bench.report.looks import variant_looks
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.baselines import shared_variant
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    from analysis.state_figures import StatePanel

_MEASURES = {"state_position_error": "position error (pixels)", "state_presence_error": "lost or made up (share)"}


def draw_states(plan: SavedPlan, store: Store, arms: Sequence[Sequence[tuple[str, Sequence[Point]]]], view: str, notes: str) -> Drawn:
    """`arms`: for each arm, its variants on one game, (label, finished points). One row per arm and measure, one column per object."""
    from analysis.curves import band_words
    from analysis.state_figures import state_figure

    game = arms[0][0][1][0].game
    rows = [
        [_panel(store, variants, measure, name, plan) for name in object_names(game)]
        for variants in arms
        for measure in _MEASURES
    ]  # fmt: skip
    curves = [curve for row in rows for panel in row for curve in panel.curves.values()]
    seeds = [curve.num_seeds for curve in curves]
    numbers = range_words((curve.num_trajectories for curve in curves), "trajectory", "trajectories")
    origin = f"{numbers} from {range_words((curve.num_episodes for curve in curves), 'episode', 'episodes')}"
    basis = f"{origin}, {range_words(seeds, 'seed', 'seeds')}, scale {plan.scale}"
    what = f"{game}; position: of objects there in truth and in imagination"
    return annotated(state_figure(rows), plan, what, view, basis, band_words(curves), notes)


def _panel(store: Store, variants: Sequence[tuple[str, Sequence[Point]]], measure: str, thing: str, plan: SavedPlan) -> "StatePanel":
    from analysis.state_figures import StatePanel, known_mean_curve

    name = f"{measure}_{thing}"
    curves = {}
    for label, points in variants:
        jobs = [point.jobs["evaluation"] for point in points]
        stored = [stored_arrays(store, job, "arrays.npz", name, "episodes", optional=True) for job in jobs]
        curves[label or plan.study] = known_mean_curve(np.stack([one[name] for one in stored]), stored[0].get("episodes"))
    first = variants[0][1][0]
    levels = {}
    of_panel = [point for _, points in variants for point in points]
    if shared_variant(plan, of_panel, COPY_LAST) and shared_variant(plan, of_panel, STATE_PROBE):
        found = stored_arrays(store, first.jobs["evaluation"], "arrays.npz", f"copy_{name}", f"true_{name}")
        levels = {key: known_mean_curve(values[None]).mean for key, values in found.items()}
    most = 1.0 if measure == "state_presence_error" else np.inf
    title = f"{thing}{f', {first.arm}' if first.arm else ''}"
    all_looks = variant_looks(plan)
    looks = {label or plan.study: all_looks[points[0].variant] for label, points in variants}
    return StatePanel(title, _MEASURES[measure], curves, levels.get(f"copy_{name}"), levels.get(f"true_{name}"), most, looks)
