"""The job `evaluate_agent`: an agent's final games, scored by raw rewards, and the conditions of play."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.media import replacing, side_by_side, write_video
from analysis.scores import human_random
from diamond_bench.agent import Agent, load_agent
from diamond_bench.envs.games import make_env, score_conditions
from diamond_bench.envs.lives import Frame
from diamond_bench.envs.play import TestGame, play_test_games
from diamond_bench.errors import UserError
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.evaluation.rollouts import imagine
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.jobs.parts import save_arrays
from diamond_bench.metrics.play import WindowBatch
from diamond_bench.store.files import DamagedFile, read_json, write_json
from diamond_bench.store.kinds import EvaluateAgent
from diamond_bench.store.shapes import GAMES, RESULT, fit
from diamond_bench.studies.agents import AGENT_FOLDER, FILM

_VIDEO_STEPS = 300
"""Steps of the first episode that the video shows."""


def run(config: EvaluateAgent, context: JobContext) -> Result:
    """Plays the episodes and writes arrays.npz (every return and length) and, with evaluation.video, media/episode.mp4.

    Raises Interrupted with finished episodes kept, and UserError if the agent cannot be read or does not fit the environment.
    """
    return _Evaluation(config, context).run()


class _Evaluation:
    def __init__(self, config: EvaluateAgent, context: JobContext) -> None:
        self.config, self.context, self.settings = config, context, config.evaluation
        self.agent: Agent = load_agent(context.inputs["agent"] / AGENT_FOLDER, config.execution.precision, context.device)
        self.game = self.agent.description.game
        if self.agent.description.frame_size != config.env.frame_size:
            raise UserError(f"env.frame_size={config.env.frame_size}: the agent sees frames of {self.agent.description.frame_size} pixels")
        self.finished = {game.index: game for game in _read(self._file, context.say)}
        self.steps = 0
        self.film: list[tuple[Frame, int]] = []
        self.filmed = 0

    @property
    def _file(self) -> Path:
        return self.context.folder / "checkpoint" / self.context.device.partition(":")[0] / "games.json"

    def run(self) -> Result:
        settings = self.settings
        play_test_games(
            lambda: make_env(self.game, self.config.env),
            PolicyPlayer(self.agent.actor_critic),
            settings.episodes,
            settings.num_envs,
            settings.seed,
            settings.epsilon,
            settings.temperature,
            settings.max_steps,
            watch=self._watch,
            skip=self.finished.keys() - ({0} if settings.video else set()),  # it is filmed again: its seed gives the same game
            on_game=self._keep,
        )
        games = [self.finished[index] for index in range(settings.episodes)]
        self.context.check_owner()
        if settings.video:
            self._write_video()
        returns, lengths = np.array([game.score for game in games]), np.array([game.length for game in games])
        save_arrays(self.context.folder / "arrays.npz", {"test_return": returns, "test_length": lengths})
        rows = [Row("test_return", float(returns.mean())), Row("test_length", float(lengths.mean()))]
        known = human_random()
        if self.game in known.index:
            low, high = float(known["random"][self.game]), float(known["human"][self.game])
            rows.append(Row("hns", float((returns.mean() - low) / (high - low))))
        return Result(rows, {"protocol_record": self._protocol(games), "return_std": float(returns.std())})

    def _watch(self, index: int, frame: Frame, action: int, reward: float) -> None:
        self.steps += 1
        if index == 0 and len(self.film) < _VIDEO_STEPS:
            self.film.append((frame, action))
        if self.context.should_stop():
            raise Interrupted(f"stopped with {len(self.finished)} of {self.settings.episodes} episodes played; they are kept")
        if self.steps % 50 == 0:
            self._report()

    def _keep(self, game: TestGame) -> None:
        self.finished[game.index] = game
        self.context.check_owner()
        write_json(self._file, {"games": [asdict(game) for game in self.finished.values()]})
        self._report()

    def _tick_video(self) -> None:
        self.filmed += 1
        total = len(self.film) - (self.agent.world_model.context if self.agent.world_model else 0)
        self.context.progress(self.filmed, total, "imagining the video")
        if self.context.should_stop():
            raise Interrupted("stopped while imagining the video; the episodes played are kept")

    def _report(self) -> None:
        done = len(self.finished)
        mean = f", mean return {np.mean([game.score for game in self.finished.values()]):.1f}" if done else ""
        self.context.progress(done, self.settings.episodes, f"{self.steps} steps{mean}")

    def _protocol(self, games: list[TestGame]) -> dict[str, Any]:
        """The conditions of the score, to be stored and compared with those of other scores."""
        env, settings = self.config.env, self.settings
        return {
            **score_conditions(self.game, env),
            "policy": f"sampled, temperature {settings.temperature:g}, epsilon {settings.epsilon:g}",
            "episodes": len(games),
            "episodes_cut": sum(game.cut for game in games),
            "max_steps": settings.max_steps,
            "concurrency": f"{settings.num_envs} environments, each plays its own share to the end",
            "reward": "raw",
            "real_steps": _real_steps(self.context.inputs["agent"]),
        }

    def _write_video(self) -> None:
        """The first steps of episode 0 next to the frames that the agent's world model imagines from the same start and actions."""
        frames = np.stack([frame for frame, _ in self.film])
        path = self.context.folder / FILM
        world_model = self.agent.world_model
        if world_model is None or len(frames) <= world_model.context:
            self.context.say("the video has no imagination: the agent has no world model, or the episode was too short")
            shown = frames.repeat(4, axis=1).repeat(4, axis=2)
        else:
            on_device = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].to(self.context.device)
            actions = torch.tensor([[action for _, action in self.film]], device=self.context.device)
            true = WindowBatch(on_device, actions, world_model.context)
            imagined = imagine(world_model.bound(self.config.sampler), true, [(self.settings.seed,)], self._tick_video)
            both = torch.cat((on_device[:, : world_model.context], imagined), dim=1)
            shown = side_by_side([frames], [both[0].permute(0, 2, 3, 1).cpu().numpy()])
        with replacing(path) as temporary:
            write_video(shown, temporary)


def _real_steps(agent: Path) -> int | None:
    """Real steps of the agent's training. None if they were not recorded (an imported agent)."""
    try:
        result = read_json(agent / "result.json")
        fit(result, RESULT, agent / "result.json")
    except (FileNotFoundError, DamagedFile):
        return None
    steps = result["info"].get("real_steps")
    return None if steps is None else int(steps)


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
