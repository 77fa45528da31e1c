"""The cost of `evaluate_agent`, and of the random games that its score is compared with."""

from diamond_bench.store.cost import Arithmetic, Inputs, JobCost
from diamond_bench.store.kinds import EvaluateAgent, PlayRandom

_STEPS_PER_EPISODE = 1000
"""Steps per test episode, as an order of magnitude: a few hundred in Breakout, over a thousand in Pong."""


def _steps(config: EvaluateAgent | PlayRandom, inputs: Inputs) -> float:
    return float(config.evaluation.episodes * _STEPS_PER_EPISODE)


COST = JobCost(
    work=_steps,
    arithmetic=lambda config, inputs: Arithmetic(precision=config.execution.precision),
)
RANDOM_COST = JobCost(work=_steps)
