"""The figures of play under held actions: the share that has not collapsed, and the motion, against t."""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from diamond_bench.metrics.header import Figure
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, stored_arrays
from diamond_bench.report.looks import variant_looks
from diamond_bench.report.mode_figures import from_evaluations
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from analysis.survival import Survival

    Arrays = dict[str, NDArray[np.float64]]

_ARRAYS = ("idle", "lasted", "collapsed", "motion", "true_lasted", "true_collapsed", "true_motion", "true_motion_held_out", "train_shares")


def survival_figures(
    shown: Figure, plan: SavedPlan, store: Store, done: Collection[JobRef], notes: Sequence[str] = ()
) -> Iterator[StudyFigure]:
    """One per game and group of arms, from the finished evaluations `done` that held actions."""
    return from_evaluations(_draw, shown, plan, store, done, notes)


def _draw(plan: SavedPlan, store: Store, points: Sequence[Point], notes: str) -> Drawn | None:
    from analysis.survival_figures import HeldPanel, survival_figure
    from diamond_bench.metrics.idle_decay import true_motion

    found: dict[str, list[Arrays]] = {}
    for point in points:
        names = [f"held_{name}" for name in _ARRAYS]
        stored = stored_arrays(store, point.jobs["evaluation"], "arrays.npz", *names, optional=True)
        found.setdefault(point.variant, []).append({name.removeprefix("held_"): values for name, values in stored.items()})
    first = next(iter(found.values()))[0]
    if len({runs[0]["motion"].shape for runs in found.values()}) > 1:
        return None  # other lengths or starts
    panels = []
    for idle, title in ((True, "no-op"), (False, "one other action")):
        if not (first["idle"] == idle).any():
            continue
        ratios = {}
        for name, runs in found.items():
            own, true = (
                np.nansum([values[run["idle"] == idle] for run, values in zip(runs, of, strict=True)], axis=(0, 1))
                for of in ([run["motion"] for run in runs], [true_motion(run, run["true_motion_held_out"]) for run in runs])
            )
            ratios[name] = np.divide(own, true, out=np.full(len(own), np.nan), where=true > 0)
        survivals = {name: _survival(runs, idle) for name, runs in found.items()}
        game = _survival([first], idle, "true_") if "true_lasted" in first else None
        panels.append(HeldPanel(title, survivals, ratios, game, first["train_shares"] if idle else None))
    starts = int(first["idle"].sum())
    basis = f"{starts} held-out starts, {range_words((len(runs) for runs in found.values()), 'seed', 'seeds')} pooled, scale {plan.scale}"
    band = "band: 95% interval (Kaplan-Meier, Greenwood, log-log), in which starts and seeds count as independent"
    figure = survival_figure(panels, variant_looks(plan))
    still = "no ratio of motion where the game stands still"
    return annotated(figure, plan, points[0].game, basis, band, still, notes)


def _survival(runs: "Sequence[Arrays]", idle: bool, prefix: str = "") -> "Survival":
    from analysis.survival import survival

    lasted, collapsed = (np.concatenate([run[f"{prefix}{name}"][run["idle"] == idle] for run in runs]) for name in ("lasted", "collapsed"))
    return survival(lasted, collapsed, runs[0]["motion"].shape[1])
