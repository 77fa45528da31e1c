"""Table 6: scores of search and model-free methods, with DIAMOND's."""

from paper_figures.columns import own, published
from paper_figures.methods import DIAMOND, OTHERS
from paper_figures.parts import Inputs, Output
from paper_figures.score_tables import score_table


def make(inputs: Inputs) -> Output:
    """The paper's columns, then the user's own."""
    from analysis.scores import human_random

    columns = [*(published(method) for method in (*OTHERS, DIAMOND)), *own(inputs)]
    return score_table(columns, list(human_random().index), "Table 6")
