"""The cost of `profile`. It is never planned ahead, so its time and disk are not estimated."""

from diamond_bench.store.cost import JobCost

COST = JobCost(processes=lambda config: max(config.packed or (1,)))
