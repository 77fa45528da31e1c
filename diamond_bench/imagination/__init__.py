"""Games imagined by the world model, as a gymnasium vector environment."""

from diamond_bench.imagination.env import Draws, GeneratorDraws, ImaginationEnv, categorical
from diamond_bench.imagination.starts import ReplayStarts, StartRing, StartSegments

__all__ = ["Draws", "GeneratorDraws", "ImaginationEnv", "ReplayStarts", "StartRing", "StartSegments", "categorical"]
