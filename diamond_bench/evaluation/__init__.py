"""Rollouts of a world model from reference windows, and policies as players."""
