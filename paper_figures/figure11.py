"""Figure 11: the same start under different fixed actions, in games whose actions are numbers, such as driving."""

from paper_figures.fixed_actions import same_start
from paper_figures.parts import Inputs, Output


def make(inputs: Inputs) -> Output:
    """One figure for each such game and variant of a study that sets evaluation.fixed_actions."""
    return same_start(inputs, True, "the same start under different fixed driving actions", "figure11")
