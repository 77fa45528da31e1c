"""Games imagined by the world model, as a gymnasium vector environment."""

from diamond_bench.imagination.env import Draws, GeneratorDraws, ImaginationEnv, ImaginationSettings, categorical, record_steps
from diamond_bench.imagination.starts import ReplayStarts, StartRing, StartSegments

__all__ = [
    "Draws",
    "GeneratorDraws",
    "ImaginationEnv",
    "ImaginationSettings",
    "ReplayStarts",
    "StartRing",
    "StartSegments",
    "categorical",
    "record_steps",
]
