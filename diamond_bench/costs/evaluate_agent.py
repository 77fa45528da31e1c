"""The cost of `evaluate_agent`."""

from diamond_bench.store.cost import Arithmetic, JobCost

_STEPS_PER_EPISODE = 1000
"""Steps per test episode, as an order of magnitude: a few hundred in Breakout, over a thousand in Pong."""

COST = JobCost(
    work=lambda config, inputs: float(config.evaluation.episodes * _STEPS_PER_EPISODE),
    arithmetic=lambda config, inputs: Arithmetic(precision=config.execution.precision),
)
