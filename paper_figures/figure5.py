"""Figure 5: consecutive frames imagined by IRIS and by DIAMOND. Cannot be made here."""

from paper_figures.parts import Inputs, Lack, Output


def make(inputs: Inputs) -> Output:
    """Returns only the reason."""
    reason = "frames imagined by IRIS: they need its trained tokenizer and transformer, which this project neither has nor trains"
    return Output(lacks=(Lack(reason),))
