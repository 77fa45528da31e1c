"""Table 1: scores of world models on the 26 games, with the number of superhuman games, mean and IQM."""

from paper_figures.columns import own, published
from paper_figures.methods import WORLD_MODELS
from paper_figures.parts import Inputs, Output
from paper_figures.score_tables import score_table


def make(inputs: Inputs) -> Output:
    """The paper's columns, then the user's own."""
    from analysis.scores import human_random

    columns = [*(published(method) for method in WORLD_MODELS), *own(inputs)]
    return score_table(columns, list(human_random().index), "Table 1")
