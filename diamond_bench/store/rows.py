"""One number of the results table, as produced by a job."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One number and its meaning."""

    metric: str
    value: float
    measured: bool = False
    """True for time and memory: numbers of this machine, which another run does not reproduce."""
    baseline: str = ""
    """Name of the reference predictor of this number (copy-last-frame, ...). Empty for the model itself."""
