"""Human-normalised scores by game, one bar for each method, with intervals over runs."""

from diamond_bench.report.drawing import Drawn
from paper_figures.columns import no_findings, notes_between, of_runs, own, published
from paper_figures.looks import looks_of
from paper_figures.methods import WORLD_MODELS
from paper_figures.parts import Inputs, Output
from paper_figures.tables import sentence

_CONFIDENCE = 0.95


def make(inputs: Inputs) -> Output:
    """The paper's world models, then the user's own. A method has no bar for a game that it lacks."""
    import numpy as np
    import pandas as pd
    from scipy import stats

    from analysis.aggregates import MIN_RUNS
    from analysis.score_figures import Interval, per_game_figure
    from analysis.scores import ScoreError, general_footnotes, human_random, runs_by_game

    columns = [*(of_runs(m, iqm=False) if m.runs else published(m, iqm=False) for m in WORLD_MODELS), *own(inputs)]
    games: dict[str, dict[str, Interval]] = {game: {} for game in human_random().index}
    tidy, left = [], list[str]()
    for column in columns:
        try:
            by_game = {} if column.frame is None else runs_by_game(column.frame)
        except ScoreError as error:
            left.append(sentence(error))
            continue
        for game, values in by_game.items():
            mean, low, high = float(np.mean(values)), float("nan"), float("nan")
            if column.has_runs and len(values) >= MIN_RUNS:
                reach = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, len(values) - 1) * stats.sem(values))
                low, high = mean - reach, mean + reach
            games[game][column.drawn] = Interval(mean, low, high)
            runs = len(values) if column.has_runs else pd.NA
            tidy.append({"game": game, "method": column.one_line, "runs": runs, "mean": mean, "low": low, "high": high})
    basis = "Bars: mean HNS over runs. Lines: 95% Student interval over runs, where runs are published; of 5 runs it is wide."
    caption = f"{basis} Dotted: human. Each panel has its own scale.{no_findings(columns)}"
    figure = per_game_figure({game: bars for game, bars in games.items() if bars}, looks=looks_of(columns, inputs))
    notes = [*(note for column in columns for note in column.notes), *left, *general_footnotes(), *notes_between(columns, intervals=True)]
    sources = tuple(dict(source) for column in columns for source in column.sources)
    data = pd.DataFrame(tidy).astype({"runs": "Int64"})
    return Output(figures={"": Drawn(figure, caption)}, data=data, footnotes=tuple(dict.fromkeys(notes)), sources=sources)
