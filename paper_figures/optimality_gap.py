"""Median and optimality gap of every method whose runs are published: the aggregates that the paper does not print."""

from paper_figures.aggregate_figure import aggregate_figure
from paper_figures.columns import of_runs, own
from paper_figures.methods import WITH_RUNS
from paper_figures.parts import Inputs, Made


def make(inputs: Inputs) -> Made:
    """Every method with runs, then the user's own. Median: over games, of the mean over runs."""
    return aggregate_figure([*(of_runs(method) for method in WITH_RUNS), *own(inputs)], ("median", "optimality_gap"))
