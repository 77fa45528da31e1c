"""Aggregates of several methods as points with intervals, and the numbers behind them as a table."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from diamond_bench.errors import UserError
from diamond_bench.report.drawing import Drawn
from paper_figures.attained import BASIS, attained_words, range_of_levels
from paper_figures.columns import Column, no_findings, notes_between
from paper_figures.looks import looks_of
from paper_figures.parts import SEED, Inputs, Output
from paper_figures.tables import Cell, Head, Table, number, sentence, words

if TYPE_CHECKING:
    import numpy as np

LABELS = {"mean": "mean HNS ↑", "iqm": "IQM of HNS ↑", "median": "median HNS ↑", "optimality_gap": "optimality gap ↓"}
_TITLES = {"mean": "mean", "iqm": "IQM", "median": "median", "optimality_gap": "optimality gap"}
PRINTED = "as printed in the DIAMOND paper, where it differs"
_SAME = 0.0005
_OF_MEANS = ("mean", "median")
"""Aggregates whose value is the same for means of games as for runs."""


def aggregate_figure(inputs: Inputs, columns: Sequence[Column], names: Sequence[str], printed: bool = False) -> Output:
    """One panel per aggregate and one row per method. Intervals are 95% stratified bootstrap over runs.

    Methods of which only means are known get points without intervals for mean and median, which equal those of runs, and no IQM or gap of
    runs. `printed` adds the paper's own number as a hollow diamond if it differs, or is the only one.
    """
    from analysis.aggregates import REPLICATES, intervals, point_estimates
    from analysis.score_figures import Interval, IntervalPanel, interval_figure
    from analysis.scores import ScoreError, general_footnotes

    panels: dict[str, dict[str, Interval]] = {name: {} for name in names}
    rows: list[tuple[Cell, ...]] = []
    shown: list[Column] = []
    matrices: list[np.ndarray] = []
    for column in columns:
        notes = list(column.notes)
        try:
            matrix = column.matrix()
            points = point_estimates(matrix)
        except ScoreError as error:
            rows.append(
                (words(column.one_line, [*notes, sentence(error)]), Cell(), *(Cell() for name in names for _ in _parts(name, printed)))
            )
            continue
        found: Mapping[str, tuple[float, float]] = {}
        if column.has_runs:
            try:
                found = intervals(matrix, SEED)
                notes.append(f"{column.one_line}: {attained_words(matrix, {name: _TITLES[name] for name in names})}")
                matrices.append(matrix)
            except ScoreError as error:
                notes.append(sentence(error))
        cells: list[Cell] = []
        for name in names:
            known = column.has_runs or name in _OF_MEANS
            value = points[name] if known else None
            low, high = found.get(name, (None, None))
            paper = None if column.method is None else column.method.printed.get(name)
            cells += [number(value), number(low), number(high)]
            if _has_printed(name, printed):
                cells.append(number(paper))
            differs = printed and paper is not None and (value is None or abs(value - paper) > _SAME)
            hollow = float(paper) if differs and paper is not None else float("nan")
            if value is not None or differs:
                nan = float("nan")
                point = Interval(nan if value is None else value, nan if low is None else low, nan if high is None else high, hollow)
                panels[name][column.drawn] = point
        if not column.has_runs:
            hollow_one = " (hollow: as the DIAMOND paper prints it)" if printed and column.method is not None else ""
            without = " and ".join(_TITLES[name] for name in names if name not in _OF_MEANS)
            notes.append(f"{column.one_line}: this source gives only means: no interval, and no {without} of runs{hollow_one}.")
        runs = Cell(None, "means") if not column.has_runs else number(len(matrix), 0)
        rows.append((words(column.one_line, notes), runs, *cells))
        shown.append(column)
    heads = [Head("Method"), Head("Runs", "runs")]
    for name in names:
        heads += [Head(f"{_TITLES[name]}{part}", f"{name}{part.replace(' ', '_').replace(',', '')}") for part in _parts(name, printed)]
    basis = f"Intervals: 95% percentile, stratified bootstrap over runs, {REPLICATES} replicates, seed {SEED}. HNS of 26 games."
    below = [basis, *([BASIS] if matrices else []), *general_footnotes(), *notes_between(columns, intervals=True)]
    table = Table(tuple(heads), tuple(rows), notes=tuple(dict.fromkeys(below)))
    lines = {"mean": [(1.0, "human")], "iqm": [(1.0, "human")], "median": [(1.0, "human")]}
    drawn = [IntervalPanel(LABELS[name], panels[name], lines.get(name, [])) for name in names]
    if not shown:
        raise UserError("no method has scores of all 26 games")
    levels = range_of_levels(matrices, names)
    caption = f"Bars: 95% stratified bootstrap intervals over runs, where runs are published{f' ({levels})' if levels else ''}."
    figure = interval_figure(drawn, [c.drawn for c in shown], PRINTED if printed else "", looks_of(shown, inputs))
    sources = tuple(dict(source) for column in columns for source in column.sources)
    return Output(table=table, figures={"": Drawn(figure, caption + no_findings(shown))}, sources=sources)


def _has_printed(name: str, printed: bool) -> bool:
    return printed and name in ("mean", "iqm")


def _parts(name: str, printed: bool) -> tuple[str, ...]:
    return ("", ", low", ", high", *((", printed",) if _has_printed(name, printed) else ()))
