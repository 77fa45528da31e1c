"""The answer to the question of `train` and `evaluate`: what the agent scores, and whether that beats random play."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.aggregates import Estimate
from analysis.episodes import MIN_EPISODES, mean_return, return_difference
from diamond_bench.report.drawing import stored_arrays
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.job_plan import RANDOM_PLAY, SavedPlan


def agent_answers(plan: SavedPlan, store: Store) -> list[str]:
    """The answer for each agent of a plan of `train` or `evaluate`.

    Empty until both the agent's episodes and the random ones are played, and for plans of earlier versions, which have no random play.
    """
    played = [(point.jobs["evaluation"], point.jobs[RANDOM_PLAY]) for point in plan.points if RANDOM_PLAY in point.jobs]
    done = [jobs for jobs in played if all(store.state(job).status == "done" for job in jobs)]
    return [answer(*(stored_arrays(store, job, "arrays.npz", "test_return")["test_return"] for job in jobs)) for jobs in done]


def answer(returns: ArrayLike, of_random: ArrayLike) -> str:
    """Sentences on an agent's returns (episodes,) next to those of random play (episodes,)."""
    own, others = np.asarray(returns), np.asarray(of_random)
    gain = return_difference(own, others)
    says = f"Return {_over(own, '95% interval ')}; random play {_over(others)}."
    if min(len(own), len(others)) < MIN_EPISODES:
        return f"{says} An interval needs at least {MIN_EPISODES} episodes."
    if gain.low > 0:
        verdict = f"This agent beats random play, by {_shown(gain)}."
    elif gain.high < 0:
        verdict = f"This agent is worse than random play, by {_shown(Estimate(-gain.value, -gain.high, -gain.low))}."
    else:
        verdict = f"These episodes show no difference from random play: {_shown(gain)}."
    return f"{says} {verdict} Intervals are Student's t over the episodes of this one agent; other training seeds may score otherwise."


def _over(returns: NDArray[Any], name: str = "") -> str:
    estimate = mean_return(returns)
    if len(returns) < MIN_EPISODES:
        return f"{estimate.value:.4g} in one episode"
    return f"{estimate.value:.4g}, {name}[{estimate.low:.4g}, {estimate.high:.4g}] over {len(returns)} episodes"


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
