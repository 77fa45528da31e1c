"""The number of runs that an interval needs. A separate module without numpy, because planning uses it."""

MIN_RUNS = 3
"""Minimum number of runs (seeds) for an interval or a test: one run has no spread, and a resample of two takes only three values."""
