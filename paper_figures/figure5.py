"""Figure 5: consecutive frames imagined by IRIS and by DIAMOND. Cannot be made here."""

from paper_figures.parts import Inputs, Lack, Made


def make(inputs: Inputs) -> Made:
    """Returns only the reason."""
    reason = "frames imagined by IRIS: they need its trained tokenizer and transformer, which this project neither has nor trains"
    return Made(lacks=(Lack(reason),))
