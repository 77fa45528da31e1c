"""How many runs an interval needs. A module of its own without numpy, because planning reads it too."""

MIN_RUNS = 3
"""Fewest runs (seeds) that get an interval or a test: one run has no spread, and a resample of two takes only three values."""
