"""Median and optimality gap of every published method, which the paper does not print."""

from paper_figures.aggregate_figure import aggregate_figure
from paper_figures.columns import of_runs, own, published
from paper_figures.methods import ALL_RUNS
from paper_figures.parts import Inputs, Output


def make(inputs: Inputs) -> Output:
    """Every published method, then the user's own. The median is over games, of the mean over runs, so known means suffice for it."""
    columns = [of_runs(method, iqm=False) if method.runs else published(method, iqm=False) for method in ALL_RUNS]
    return aggregate_figure(inputs, [*columns, *own(inputs, shown=ALL_RUNS)], ("median", "optimality_gap"))
