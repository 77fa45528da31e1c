"""The figure of the metric `modes`: which of two possible next frames a world model samples, how often, against denoiser calls."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, slug
from diamond_bench.studies.metrics import metric_label
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    import pandas as pd

_MODES = ("mode_minority_share", "mode_valid_fraction", "mode_commitment", "mode_distance", "mode_energy_distance")
_STEPS = "sampler.num_steps"
_TRUE_DISTRIBUTION = "true-distribution"


def mode_figures(plan: SavedPlan, table: "pd.DataFrame", notes: Sequence[str] = ()) -> Iterator[StudyFigure]:
    """One a game and group of arms, where evaluations measured modes."""
    scores = table[table["metric"].isin(_MODES) & table["seed"].notna()]
    nfe = table[table["metric"] == "nfe_per_frame"].drop_duplicates("job").set_index("job")["value"].to_dict()
    truths = table[table["variant"] == _TRUE_DISTRIBUTION]
    for game in dict.fromkeys(scores["game"]):
        truth = truths[truths["game"] == game].drop_duplicates("metric").set_index("metric")["value"].to_dict()
        points = {point.variant: point for point in plan.points if point.game == game}
        for group in dict.fromkeys(_group(point.arm) for point in points.values()):
            lines = {variant: _line(plan, point) for variant, point in points.items() if _group(point.arm) == group}
            chosen = scores[(scores["game"] == game) & scores["variant"].isin(lines)]
            if len(chosen):
                stem = "-".join(part for part in ("modes", slug(game), slug(group)) if part)
                title = ", ".join(part for part in (f"Modes of the next frame: {game}", group) if part)
                yield StudyFigure(stem, "modes", title, "", partial(_draw, plan, chosen, lines, nfe, truth, game, "; ".join(notes)))


def _group(arm: str) -> str:
    return arm.partition("/")[0] if "/" in arm else ""


def _line(plan: SavedPlan, point: Point) -> str:
    """A variant's line: its arm and its value on every axis but the number of steps."""
    others = [f"{name} = {value}" for name, value in point.axes.items() if plan.axes[name]["key"] != _STEPS]
    return ", ".join(part for part in (point.arm, *others) if part) or plan.study


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

    from analysis.curves import mean_points
    from analysis.mode_figures import modes_figure

    columns = {"metric": scores["metric"], "group": scores["variant"].map(lines), "nfe": scores["job"].map(nfe)}
    points = pd.DataFrame({**columns, "seed": scores["seed"], "value": scores["value"]})
    points = points[np.isfinite(points["value"]) & np.isfinite(points["nfe"])]
    if points.empty:
        return None
    order = {metric: number for number, metric in enumerate(_MODES)}
    points = points.sort_values("metric", key=lambda column: column.map(order), kind="stable")
    basis = range_words(points.groupby(["metric", "group", "nfe"])["seed"].nunique(), "seed", "seeds")
    figure = modes_figure(mean_points(points), labels={name: metric_label(name) for name in _MODES}, truth=truth)
    dotted = "dotted: as many samples of the true distribution"
    return annotated(figure, plan, game, f"{basis}, scale {plan.scale}", dotted, "intervals: 95% over seeds, where several ran", notes)
