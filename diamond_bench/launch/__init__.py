"""Running jobs: the worker, and the launchers that feed it."""
