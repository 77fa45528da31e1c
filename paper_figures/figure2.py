"""Figure 2: mean and IQM of human-normalised scores of world models, with intervals."""

from dataclasses import replace

from paper_figures.aggregate_figure import aggregate_figure
from paper_figures.columns import of_runs, own, published
from paper_figures.methods import WORLD_MODELS
from paper_figures.parts import Inputs, Output, paper_source


def make(inputs: Inputs) -> Output:
    """The paper's six methods, then the user's own. TWM, of which Table 1 has only means, is drawn as printed."""
    columns = [of_runs(method) if method.runs else published(method) for method in WORLD_MODELS]
    aggregated = aggregate_figure(inputs, [*columns, *own(inputs)], ("mean", "iqm"), printed=True)
    return replace(aggregated, sources=(*aggregated.sources, paper_source("Table 1")))
