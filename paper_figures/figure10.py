"""Figure 10: trajectories that world models of other data than Atari imagine."""

from paper_figures.fixed_actions import trajectories
from paper_figures.parts import Inputs, Output


def make(inputs: Inputs) -> Output:
    """One figure for each game of a study that sets evaluation.fixed_actions."""
    return trajectories(inputs)
