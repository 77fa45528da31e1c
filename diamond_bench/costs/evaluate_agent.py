"""The cost of `evaluate_agent`."""

from diamond_bench.store.cost import Arithmetic, JobCost

_STEPS_PER_EPISODE = 1000
"""Steps of a test episode: a few hundred in Breakout, a thousand and more in Pong; an order of magnitude."""

COST = JobCost(
    work=lambda config, inputs: float(config.evaluation.episodes * _STEPS_PER_EPISODE),
    arithmetic=lambda config, inputs: Arithmetic(precision=config.execution.precision),
)
