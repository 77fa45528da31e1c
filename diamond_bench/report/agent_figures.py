"""Figures of a study of agents: human-normalised scores by game, and test returns during training."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, range_words, stored_arrays
from diamond_bench.report.looks import variant_looks
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    import pandas as pd

_MAX_VARIANTS = 12
"""Most bars or lines per panel that remain distinguishable."""
_ROLE = "agent"


def agent_figures(
    plan: SavedPlan, store: Store, table: "pd.DataFrame", done: Collection[JobRef], notes: Sequence[str] = ()
) -> Iterator[StudyFigure]:
    """The figures that the finished jobs (`done`) of a plan of agents allow; none for another protocol."""
    said = "; ".join(notes)
    scores = table[(table["metric"] == "hns") & table["seed"].notna()]
    if len(scores):
        yield StudyFigure("scores", "scores", "Scores of every game", "", partial(_scores, plan, scores, said))
    trained = [p for p in plan.points if _ROLE in p.jobs and p.jobs[_ROLE].kind == "train_agent" and p.jobs[_ROLE] in done]
    if trained:
        yield StudyFigure("learning", "learning", "Test returns during the training", "", partial(_learning, plan, store, trained, said))


def _scores(plan: SavedPlan, scores: "pd.DataFrame", notes: str) -> Drawn:
    from analysis.curves import interval_words, mean_over_seeds
    from analysis.score_figures import Interval, per_game_figure

    _tellable(scores["variant"])
    games: dict[str, dict[str, Interval]] = {game: {} for game in dict.fromkeys(point.game for point in plan.points)}
    means = mean_over_seeds(scores[np.isfinite(scores["value"])], ["game", "variant"])
    for row in means.to_dict(orient="records"):
        games[row["game"]][row["variant"]] = Interval(row["mean"], row["low"], row["high"])
    figure = per_game_figure({game: bars for game, bars in games.items() if bars}, looks=variant_looks(plan))
    width, height = figure.get_size_inches()
    figure.set_size_inches(max(width, 4.2), max(height, 2.0))  # of one game, room for the legend
    basis = f"{range_words(means['num_seeds'], 'seed', 'seeds')}, scale {plan.scale}"
    lines = f"{interval_words(means['num_seeds'], 'lines')}; each panel has its own scale"
    return annotated(figure, plan, "bars: mean over seeds of the final policy's score", basis, lines, notes)


def _learning(plan: SavedPlan, store: Store, trained: Sequence[Point], notes: str) -> Drawn | None:
    from analysis.agent_figures import learning_figure
    from analysis.curves import interval_words

    _tellable(point.variant for point in trained)
    points = return_curves(store, trained)
    if points.empty:
        return None
    seeds = points.groupby(["game", "variant", "test"])["seed"].nunique()
    basis = f"{range_words(seeds, 'seed', 'seeds')}, scale {plan.scale}"
    line, band = "line: mean over seeds of a test's mean return", interval_words(seeds, "band")
    return annotated(learning_figure(points, variant_looks(plan)), plan, basis, line, band, "each panel has its own scale", notes)


def return_curves(store: Store, trained: Sequence[Point]) -> "pd.DataFrame":
    """One row per test of a training: game, variant, seed, test (its number), real_steps, value (mean raw return)."""
    import pandas as pd

    names = ("test_real_steps", "test_return")
    rows: list[list[Any]] = []
    for point in trained:
        kept = stored_arrays(store, point.jobs[_ROLE], "arrays.npz", *names, optional=True)
        if set(names) <= set(kept):
            for test, (steps, value) in enumerate(zip(*(kept[name] for name in names), strict=True)):
                if np.isfinite(steps) and np.isfinite(value):
                    rows.append([point.game, point.variant, point.seed, test, float(steps), float(value)])
    return pd.DataFrame(rows, columns=["game", "variant", "seed", "test", "real_steps", "value"])


def _tellable(variants: Any) -> None:
    number = len(set(variants))
    if number > _MAX_VARIANTS:
        raise ValueError(f"{number} variants do not fit into one picture (at most {_MAX_VARIANTS}); sweep fewer, or draw from api.results")
