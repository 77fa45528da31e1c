"""The job `play_random`: games played at random, under the conditions of an agent's final games, for its score to be compared with."""

import numpy as np

from diamond_bench.envs.games import num_actions
from diamond_bench.evaluation.player import UniformPlayer
from diamond_bench.jobs.context import JobContext, Result, Row
from diamond_bench.jobs.final_games import FinalGames
from diamond_bench.metrics.baselines import RANDOM_PLAY
from diamond_bench.store.kinds import PlayRandom


def run(config: PlayRandom, context: JobContext) -> Result:
    """Plays the episodes and writes arrays.npz (every return and length). Raises Interrupted with finished episodes kept."""
    final = FinalGames(config.game, config.env, config.evaluation, context)
    games = final.play(UniformPlayer(num_actions(config.game)))
    returns = np.array([game.score for game in games])
    rows = [
        Row("test_return", float(returns.mean()), baseline=RANDOM_PLAY),
        Row("test_length", float(np.mean([game.length for game in games])), baseline=RANDOM_PLAY),
    ]
    record = final.conditions(games, "uniformly random actions")
    return Result(rows, {"game": config.game, "protocol_record": record, "return_std": float(returns.std())})
