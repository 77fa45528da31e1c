"""The final games of a policy: played side by side, each kept as it ends, so that an interrupted job continues with the rest."""

from collections.abc import Callable, Container
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diamond_bench.config import AgentEvaluationConfig, EnvConfig
from diamond_bench.envs.games import make_env, score_conditions
from diamond_bench.envs.lives import Frame
from diamond_bench.envs.play import Player, TestGame, Watch, play_test_games
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.parts import save_arrays
from diamond_bench.store.files import DamagedFile, read_json, write_json
from diamond_bench.store.shapes import GAMES, fit


class FinalGames:
    """The games of one job."""

    def __init__(self, game: str, env: EnvConfig, settings: AgentEvaluationConfig, context: JobContext) -> None:
        self.game, self.env, self.settings, self.context = game, env, settings, context
        self._file = context.folder / "checkpoint" / context.device.partition(":")[0] / "games.json"
        self._finished = {game.index: game for game in _read(self._file, context.say)}
        self._steps = 0

    def play(self, player: Player, watch: Watch | None = None, again: Container[int] = ()) -> list[TestGame]:
        """Play the games that are missing, and those of the indices `again`. Writes every return and length into arrays.npz.

        `watch` sees every step. Raises Interrupted with finished games kept.
        """

        def step(index: int, frame: Frame, action: int, reward: float) -> None:
            self._steps += 1
            if watch is not None:
                watch(index, frame, action, reward)
            if self.context.should_stop():
                raise Interrupted(f"stopped with {len(self._finished)} of {settings.episodes} episodes played; they are kept")
            if self._steps % 50 == 0:
                self._report()

        settings = self.settings
        play_test_games(
            lambda: make_env(self.game, self.env),
            player,
            settings.episodes,
            settings.num_envs,
            settings.seed,
            settings.epsilon,
            settings.temperature,
            settings.max_steps,
            watch=step,
            skip={index for index in self._finished if index not in again},
            on_game=self._keep,
        )
        games = [self._finished[index] for index in range(settings.episodes)]
        self.context.check_owner()
        returns, lengths = np.array([game.score for game in games]), np.array([game.length for game in games])
        save_arrays(self.context.folder / "arrays.npz", {"test_return": returns, "test_length": lengths})
        return games

    def conditions(self, games: list[TestGame], policy: str) -> dict[str, Any]:
        """The conditions of the score, to be stored and compared with those of other scores."""
        return {
            **score_conditions(self.game, self.env),
            "policy": policy,
            "episodes": len(games),
            "episodes_cut": sum(game.cut for game in games),
            "max_steps": self.settings.max_steps,
            "concurrency": f"{self.settings.num_envs} environments, each plays its own share to the end",
            "reward": "raw",
        }

    def _keep(self, game: TestGame) -> None:
        self._finished[game.index] = game
        self.context.check_owner()
        write_json(self._file, {"games": [asdict(game) for game in self._finished.values()]})
        self._report()

    def _report(self) -> None:
        done = len(self._finished)
        mean = f", mean return {np.mean([game.score for game in self._finished.values()]):.1f}" if done else ""
        self.context.progress(done, self.settings.episodes, f"{self._steps} steps{mean}")


def _read(file: Path, say: Callable[[str], None]) -> list[TestGame]:
    try:
        content = read_json(file)
        fit(content, GAMES, file)
    except FileNotFoundError:
        return []
    except DamagedFile as error:
        say(f"{error}; its episodes are played again")
        return []
    return [TestGame(game["score"], game["length"], game["index"], game["cut"]) for game in content["games"]]
