"""The job `evaluate_agent`: an agent's final games, scored by raw rewards, and the conditions of play."""

from pathlib import Path

import numpy as np
import torch

from analysis.media import replacing, side_by_side, write_video
from analysis.scores import human_random
from diamond_bench.agent import Agent, load_agent
from diamond_bench.envs.games import family_of, truth
from diamond_bench.envs.lives import Frame
from diamond_bench.errors import UserError
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.evaluation.rollouts import imagine
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.jobs.final_games import FinalGames
from diamond_bench.jobs.precision import kept_precision
from diamond_bench.metrics.play import WindowBatch
from diamond_bench.store.files import DamagedFile, read_json
from diamond_bench.store.kinds import EvaluateAgent
from diamond_bench.store.shapes import RESULT, fit
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
        self.precision = kept_precision(config.execution.precision, context)
        self.agent: Agent = load_agent(context.inputs["agent"] / AGENT_FOLDER, self.precision, context.device)
        self.game = self.agent.description.game
        if self.agent.description.frame_size != config.env.frame_size:
            raise UserError(f"env.frame_size={config.env.frame_size}: the agent sees frames of {self.agent.description.frame_size} pixels")
        self.final = FinalGames(self.game, config.env, self.settings, context)
        self.film: list[tuple[Frame, int]] = []
        self.filmed = 0

    def run(self) -> Result:
        settings = self.settings
        filmed = {0} if settings.video else ()  # played again if it was played before; its seed makes it the same game
        games = self.final.play(PolicyPlayer(self.agent.policy), self._watch, filmed)
        if settings.video:
            self._write_video()
        returns, lengths = np.array([game.score for game in games]), np.array([game.length for game in games])
        rows = [Row("test_return", float(returns.mean())), Row("test_length", float(lengths.mean()))]
        known = human_random()
        if self.game in known.index:
            low, high = float(known["random"][self.game]), float(known["human"][self.game])
            rows.append(Row("hns", float((returns.mean() - low) / (high - low))))
        rates = truth(self.game).rewards
        if rates is not None:
            low, high = rates(family_of(self.game).facts(self.config.env))
            if high - low > 1e-9:  # otherwise no policy earns more than random play
                rows.append(Row("normalised_return", float((returns.sum() / lengths.sum() - low) / (high - low))))
        policy = f"sampled, temperature {settings.temperature:g}, epsilon {settings.epsilon:g}"
        record = {**self.final.conditions(games, policy), "real_steps": _real_steps(self.context.inputs["agent"])}
        way = {"precision": self.precision}
        return Result(rows, {"protocol_record": record, "return_std": float(returns.std()), "execution": way})

    def _watch(self, index: int, frame: Frame, action: int, reward: float) -> None:
        if index == 0 and len(self.film) < _VIDEO_STEPS:
            self.film.append((frame, action))

    def _tick_video(self) -> None:
        self.filmed += 1
        total = len(self.film) - (self.agent.world_model.context if self.agent.world_model else 0)
        self.context.progress(self.filmed, total, "imagining the video")
        if self.context.should_stop():
            raise Interrupted("stopped while imagining the video; the episodes played are kept")

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
