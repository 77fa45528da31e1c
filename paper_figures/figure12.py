"""Figure 12: the same start under different fixed actions, in games with keys, such as first-person shooters."""

from paper_figures.fixed_actions import same_start
from paper_figures.parts import Inputs, Output


def make(inputs: Inputs) -> Output:
    """One figure for each such game and variant of a study that sets evaluation.fixed_actions."""
    return same_start(inputs, False, "the same start under different fixed keys", "figure12")
