"""The results table: finished jobs joined to the points of a plan."""
