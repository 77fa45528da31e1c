"""One number of the results table, as a job hands it over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One number and what it is of."""

    metric: str
    value: float
    measured: bool = False
    """True for time and memory: numbers of this machine, that another run does not reproduce."""
    baseline: str = ""
    """Name of the reference predictor the number is of (copy-last-frame, ...); empty for the model itself."""
