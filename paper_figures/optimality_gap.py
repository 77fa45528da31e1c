"""Median and optimality gap of every published method: the aggregates that the paper does not print."""

from paper_figures.aggregate_figure import aggregate_figure
from paper_figures.columns import of_runs, own, published
from paper_figures.methods import MORE_RUNS, OTHERS, WORLD_MODELS
from paper_figures.parts import Inputs, Made


def make(inputs: Inputs) -> Made:
    """Every method, then the user's own. Median: over games, of the mean over runs; so methods of which only means are known have one."""
    methods = (*WORLD_MODELS, *OTHERS, *MORE_RUNS)
    columns = [of_runs(method, iqm=False) if method.runs else published(method, iqm=False) for method in methods]
    return aggregate_figure([*columns, *own(inputs)], ("median", "optimality_gap"))
