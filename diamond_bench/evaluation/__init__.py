"""Rollouts of a world model against references, and the weights of learned metrics."""
