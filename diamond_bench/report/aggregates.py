"""Aggregates of a study of agents: each variant's human-normalised scores over all games, as for Atari 100k."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.markup import Html, el, items, joined, table
from diamond_bench.studies.plan import SavedPlan

if TYPE_CHECKING:
    import pandas as pd

SEED = 0
"""Seed of the bootstrap and of the simulation of its coverage."""
LEVELS = (0.93, 0.97)
"""Attained levels of a 95% interval that need no remark."""
_WITHHELD = 0.80
"""Intervals below this attained level are not printed."""
_REPETITIONS = 500
Intervals = Mapping[str, tuple[float, float, float, float]]
_METRIC = "hns"
_HEADS = {"mean": "mean ↑", "median": "median ↑", "iqm": "IQM ↑", "optimality_gap": "optimality gap ↓", "superhuman": "superhuman games ↑"}


def aggregates(plan: SavedPlan, facts: StudyFacts) -> Html:
    """The table of aggregates with one row per variant, and a sentence for everything that cannot be computed honestly. Empty if no job has
    an HNS."""
    import pandas as pd

    from analysis.aggregates import MIN_RUNS, ScoreError, point_estimates
    from analysis.scores import human_random, score_matrix

    scores = facts.table[(facts.table["metric"] == _METRIC) & facts.table["seed"].notna()]
    if scores.empty:
        return Html("")
    games = list(dict.fromkeys(point.game for point in plan.points))
    known = [game for game in games if game in human_random().index]
    said = [f"Without a published human score, and left out: {', '.join(game for game in games if game not in known)}."]
    said = said if len(known) < len(games) else []
    rows = []
    for variant in dict.fromkeys(point.variant for point in plan.points):
        try:
            matrix = score_matrix(_frame(plan, facts, scores[scores["variant"] == variant], variant), games=known)
            values = point_estimates(matrix)
        except ScoreError as error:
            said.append(f"No aggregate of {variant}: {error}.")
            continue
        runs = f"{len(matrix)} × {len(known)}"
        ends = _intervals(matrix)
        rows.append({"variant": variant, "runs × games": runs, **{head: _cell(name, values, ends) for name, head in _HEADS.items()}})
    caption = (
        "Human-normalised scores over runs and games: 0 is random play, 1 a human. Below each: its 95% interval over runs, corrected for "
        f"their number (none below {MIN_RUNS} runs a game, and none for the number of superhuman games). Below that, where simulated "
        f"intervals hold the true value less than {100 * LEVELS[0]:.0f}% or more than {100 * LEVELS[1]:.0f}% of the time: how often they "
        "do, from the least to the most over normal, heavy-tailed and skewed runs. An interval that attains less than "
        f"{100 * _WITHHELD:.0f}% is withheld."
    )
    shown = [table(pd.DataFrame(rows), caption, numeric=["runs × games", *_HEADS.values()])] if rows else []
    return joined([*shown, *([items(said)] if said else [])])


def _frame(plan: SavedPlan, facts: StudyFacts, rows: "pd.DataFrame", variant: str) -> "pd.DataFrame":
    """A variant's runs in the format of `analysis.scores`, with the conditions that must agree."""
    said = {ref.id: words for ref, words in facts.conditions.items()}
    records = [said.get(job, "not recorded") for job in rows["job"]]
    runs = rows[["game", "seed", "revision"]].assign(method=variant, source=plan.study, protocol_record=records)
    return runs.assign(score=rows["value"], hns=rows["value"])


def _intervals(matrix: Any) -> Intervals:
    """For each aggregate, the ends of its interval, and the lowest and highest level that it attains over the simulated distributions of
    runs."""
    from analysis.aggregates import ScoreError, corrected_intervals
    from analysis.coverage import SHAPES, attained_coverage

    try:
        ends = corrected_intervals(matrix, SEED)
    except ScoreError:  # too few runs, as the caption says
        return {}
    found = [attained_coverage(matrix, SEED, "corrected", shape, repetitions=_REPETITIONS) for shape in SHAPES]
    levels = {name: [attained[name].level for attained in found] for name in ends}
    return {name: (*ends[name], min(levels[name]), max(levels[name])) for name in ends}


def _cell(name: str, values: Mapping[str, float], ends: Intervals) -> Html:
    shape = "{:.0f}" if name == "superhuman" else "{:.3f}"
    below = _below(*ends[name]) if name in ends else []
    return joined([shape.format(values[name]), *(el("span", line, class_="interval") for line in below)])


def _below(low: float, high: float, least: float, most: float) -> list[str]:
    """The lines below a value: its interval, and the attained levels if they are not close to 95%."""
    reached = f"attains {100 * least:.0f} to {100 * most:.0f}%" if f"{least:.2f}" != f"{most:.2f}" else f"attains {100 * least:.0f}%"
    if least < _WITHHELD:
        return [f"interval withheld: {reached}"]
    interval = f"{low:.3f} to {high:.3f}"
    return [interval] if LEVELS[0] <= least and most <= LEVELS[1] else [interval, reached]
