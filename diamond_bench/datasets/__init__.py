"""Datasets that a command makes from what packages contain. Nothing here imports torch."""
