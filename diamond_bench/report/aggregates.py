"""Of studies of agents: each variant's human-normalised scores over all games, aggregated as Atari 100k results are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.markup import Html, el, items, joined, table
from diamond_bench.studies.plan import SavedPlan

if TYPE_CHECKING:
    import pandas as pd

SEED = 0
"""Of the bootstrap."""
_METRIC = "hns"
_HEADS = {"mean": "mean ↑", "median": "median ↑", "iqm": "IQM ↑", "optimality_gap": "optimality gap ↓", "superhuman": "superhuman games ↑"}


def aggregates(plan: SavedPlan, facts: StudyFacts) -> Html:
    """The table of aggregates, a row a variant, and a sentence for what cannot be computed honestly; nothing where no job has an HNS."""
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
        f"Human-normalised scores over runs and games: 0 is random play, 1 a human. Below each: the 95% stratified-bootstrap interval "
        f"over runs (none for fewer than {MIN_RUNS} runs a game)."
    )
    shown = [table(pd.DataFrame(rows), caption, numeric=["runs × games", *_HEADS.values()])] if rows else []
    return joined([*shown, *([items(said)] if said else [])])


def _frame(plan: SavedPlan, facts: StudyFacts, rows: "pd.DataFrame", variant: str) -> "pd.DataFrame":
    """A variant's runs as `analysis.scores` takes them, with the conditions that must be one."""
    said = {ref.id: words for ref, words in facts.conditions.items()}
    records = [said.get(job, "not recorded") for job in rows["job"]]
    runs = rows[["game", "seed", "revision"]].assign(method=variant, source=plan.study, protocol_record=records)
    return runs.assign(score=rows["value"], hns=rows["value"])


def _intervals(matrix: Any) -> dict[str, tuple[float, float]]:
    from analysis.aggregates import ScoreError, intervals

    try:
        return intervals(matrix, SEED)
    except ScoreError:  # too few runs, as the caption says
        return {}


def _cell(name: str, values: Mapping[str, float], ends: Mapping[str, tuple[float, float]]) -> Html:
    shape = "{:.0f}" if name == "superhuman" else "{:.3f}"
    interval = [el("span", " to ".join(shape.format(end) for end in ends[name]), class_="interval")] if name in ends else []
    return joined([shape.format(values[name]), *interval])
