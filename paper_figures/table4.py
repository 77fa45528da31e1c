"""Table 4: parameters, days of training and mean human-normalised score."""

from paper_figures.columns import notes_between, of_runs, own
from paper_figures.methods import WORLD_MODELS
from paper_figures.parts import Inputs, Output, paper_source
from paper_figures.tables import Cell, Head, Table, number, sentence, words
from paper_figures.training import days_cell, size_cell

_PRINTED = (("IRIS", 30, "4.1", 1.046), ("DreamerV3", 18, "<1", 1.097), ("DIAMOND", 13, "2.9", 1.459))
"""Method, million parameters, days of one training, mean HNS; as printed."""
_HNS_OF = "Mean HNS as printed; over 26 games and the published runs of each method (Table 1 has them one by one)."
_DAYS = "Days of one training of one game, as printed; DIAMOND's on one RTX 4090."


def make(inputs: Inputs) -> Output:
    """The printed rows, then the agents of the studies and the methods asked for: their mean HNS where all 26 games are there."""
    from analysis.aggregates import point_estimates
    from analysis.scores import ScoreError, protocol

    methods = {method.name: method for method in WORLD_MODELS}
    paper = [of_runs(methods[name], iqm=False) for name, *_ in _PRINTED]
    rows: list[tuple[Cell, ...]] = []
    for (name, millions, days, mean), column in zip(_PRINTED, paper, strict=True):
        record = protocol(name, methods[name].runs)
        counts = [f"{name}: {millions} million as printed; its public code has another count: {record['model size']}."] if record else []
        rows.append((words(name, column.notes), number(millions, 0, notes=counts), words(days), number(mean)))
    columns = own(inputs)
    for column in columns:
        try:
            mean_cell = number(point_estimates(column.matrix())["mean"])
        except ScoreError as error:
            mean_cell = Cell(notes=(sentence(error),))
        size = days_of = Cell()
        if column.study is not None:
            size = size_cell(column.study, column.variant, inputs.store)
            days_of = days_cell(column.study, column.variant)
        rows.append((words(column.one_line, column.notes), size, days_of, mean_cell))
    heads = (
        Head("Method"),
        Head("Parameters\n(million)", "parameters_million"),
        Head("Training\n(days)", "days"),
        Head("Mean HNS", "mean"),
    )
    sources = (paper_source("Table 4"), *(dict(source) for column in columns for source in column.sources))
    notes = (_DAYS, _HNS_OF, *notes_between([*paper, *columns]))
    return Output(table=Table(heads, tuple(rows), frozenset({len(_PRINTED)}), notes), sources=sources)
