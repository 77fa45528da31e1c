"""A table of scores with one row per game and one column per method. Aggregates follow, computed here and as printed."""

from collections.abc import Mapping, Sequence
from typing import Any

from paper_figures.columns import Column, notes_between
from paper_figures.methods import IQM, MEAN, SUPERHUMAN
from paper_figures.parts import Output, paper_source
from paper_figures.tables import Cell, Head, Table, best, number, sentence, words

TITLES = {SUPERHUMAN: "Superhuman games", MEAN: "Mean HNS", IQM: "IQM HNS"}
_DIGITS = {SUPERHUMAN: 0, MEAN: 3, IQM: 3}
_HNS = "HNS = (score − random) / (human − random)."
_MEANING = {
    SUPERHUMAN: "Superhuman: mean HNS of a game at least 1.",
    MEAN: "",
    IQM: "IQM: mean of the middle half of the values.",
}


def score_table(
    columns: Sequence[Column],
    games: Sequence[str],
    where: str,
    aggregates: Sequence[str] = (SUPERHUMAN, MEAN, IQM),
    printed: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Output:
    """The table with `games` as rows; `where` is the paper's name of it, `printed` the aggregates that the paper prints (all of them).

    Aggregates are computed from runs where those are published. An IQM of means is shown only where the paper prints one, and then
    no IQM is bold, since two kinds stand in one row.
    """
    from analysis.scores import general_footnotes, human_random

    reference = human_random()
    heads = [Head("Game"), Head("Random"), Head("Human"), *(Head(column.label, notes=column.notes) for column in columns)]
    compete = [column.competes for column in columns]
    rows = []
    for game in games:
        of_game = best([number(column.cells.get(game), 1, thousands=True) for column in columns], compete, 1)
        known = [number(float(reference[who][game]), 1, thousands=True) for who in ("random", "human")]
        rows.append((words(game), *known, *of_game))
    rules = {len(rows)}
    mixed = any(column.method is not None and column.method.iqm_of_means for column in columns)
    computed = [_computed(column, games, aggregates) for column in columns]
    for name in aggregates:
        cells = [cell[name] for cell in computed]
        if not (name == IQM and mixed):
            cells = best(cells, compete, _DIGITS[name])
        rows.append((words(TITLES[name]), Cell(), Cell(), *cells))
    rules.add(len(rows))
    for name in aggregates if printed is None else printed:
        cells = [number(None if column.method is None else column.method.printed[name], _DIGITS[name]) for column in columns]
        rows.append((words(f"{TITLES[name]}, as printed"), Cell(), Cell(), *cells))
    below = [
        " ".join([_HNS, *(_MEANING[name] for name in aggregates if _MEANING[name])]),
        *_from(columns),
        *([] if printed == () else [f"As printed: the numbers under {where} of the DIAMOND paper."]),
        *notes,
    ]
    with_iqm = [column for column, of in zip(columns, computed, strict=True) if IQM in of and of[IQM].value is not None]
    below += [*general_footnotes(), *notes_between(columns, games, with_iqm)]
    if not all(compete):
        below.append("Best of a row in bold; columns of other scales than the paper's do not compete.")
    sources = [*(source for column in columns for source in column.sources), *([] if printed == () else [paper_source(where)])]
    table = Table(tuple(heads), tuple(rows), frozenset(rules), tuple(dict.fromkeys(below)))
    return Output(table=table, sources=tuple(_distinct(sources)))


def _computed(column: Column, games: Sequence[str], aggregates: Sequence[str]) -> dict[str, Cell]:
    from analysis.aggregates import point_estimates
    from analysis.scores import ScoreError

    try:
        estimates = point_estimates(column.matrix(games))
    except ScoreError as error:
        return {name: Cell(notes=(sentence(error),)) for name in aggregates}
    cells = {}
    for name in aggregates:
        value: float | int = int(estimates[name]) if name == SUPERHUMAN else estimates[name]
        cells[name] = number(value, _DIGITS[name])
        if name == IQM and not column.has_runs:
            allowed = column.method is not None and column.method.iqm_of_means
            note = f"{column.one_line}: IQM of the game means, not of runs; do not rank it against an IQM of runs."
            none = f"{column.one_line}: this source gives only means over runs, from which the IQM of runs cannot be had."
            cells[name] = number(value, 3, notes=[note]) if allowed else Cell(notes=(none,))
    return cells


def _from(columns: Sequence[Column]) -> list[str]:
    """Where the aggregates' scores are from."""
    found = []
    for column in columns:
        if column.frame is not None:
            runs = column.frame.groupby("game").size()
            what = f"{runs.min()} to {runs.max()} runs" if runs.min() < runs.max() else f"{runs.max()} runs"
            what = what if runs.max() > 1 or column.has_runs else "one number a game"
            found.append(f"{column.one_line}: {column.frame['source'].iloc[0]}, {what.replace('1 runs', '1 run')}")
    return [f"Aggregates are computed from: {'; '.join(found)}."]


def _distinct(sources: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [source for i, source in enumerate(sources) if source not in sources[:i]]
