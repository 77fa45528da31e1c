"""The probability that a run of DIAMOND beats a run of each other method on a game, averaged over games."""

from diamond_bench.report.drawing import Drawn
from paper_figures.attained import NOT_SIMULATED
from paper_figures.columns import no_findings, notes_between, of_runs, own
from paper_figures.looks import looks_of
from paper_figures.methods import DIAMOND, WITH_RUNS
from paper_figures.parts import SEED, Inputs, Output
from paper_figures.tables import Cell, Head, Table, number, sentence, words


def make(inputs: Inputs) -> Output:
    """DIAMOND's published runs against those of every method that has runs, the user's own included."""
    from analysis.aggregates import REPLICATES, improvement, probability_of_improvement
    from analysis.score_figures import Interval, IntervalPanel, interval_figure
    from analysis.scores import ScoreError, general_footnotes

    diamond = of_runs(DIAMOND, iqm=False)
    others = [*(of_runs(method, iqm=False) for method in WITH_RUNS if method is not DIAMOND), *own(inputs, shown=WITH_RUNS)]
    found: dict[str, Interval] = {}
    rows: list[tuple[Cell, ...]] = []
    for column in others:
        notes = list(column.notes)
        cells = [Cell(), Cell(), Cell(), Cell()]
        try:
            matrix = column.matrix()
            if not column.has_runs:
                raise ScoreError(f"{column.one_line}: only means over runs are known; they cannot be set against runs")
            value, low, high = improvement(diamond.matrix(), matrix), float("nan"), float("nan")
            try:
                estimate = probability_of_improvement(diamond.matrix(), matrix, SEED)
                value, low, high = estimate.value, estimate.low, estimate.high
            except ScoreError as error:
                notes.append(sentence(error))
            found[column.drawn] = Interval(value, low, high)
            cells = [number(len(matrix), 0), number(value), number(low), number(high)]
        except ScoreError as error:
            notes.append(sentence(error))
        rows.append((words(column.one_line, notes), *cells))
    heads = (Head("DIAMOND against"), Head("Its runs", "runs"), Head("P(DIAMOND better)", "probability"), Head("low"), Head("high"))
    basis = f"Ties count half. Intervals: 95% percentile, stratified bootstrap over runs, {REPLICATES} replicates, seed {SEED}."
    below = [basis, NOT_SIMULATED, *diamond.notes, *general_footnotes(), *notes_between([diamond, *others], intervals=True)]
    table = Table(heads, tuple(rows), notes=tuple(dict.fromkeys(below)))
    panel = IntervalPanel("P(DIAMOND > the method)", found, [(0.5, "even")])
    caption = f"Bars: 95% stratified bootstrap intervals over runs.{no_findings(others)}"
    figure = interval_figure([panel], list(found), looks=looks_of(others, inputs))
    sources = tuple(dict(source) for column in (diamond, *others) for source in column.sources)
    return Output(table=table, figures={"": Drawn(figure, caption)}, sources=sources)
