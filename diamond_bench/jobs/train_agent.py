"""The job `train_agent`: play, learn a world model, learn to act in it (method section 6), resumable bit for bit.

An epoch is five phases: collect, update the denoiser, the reward/end model and the actor-critic, play test games now and then. A
phase is made of units (an update; a stretch of play), and a checkpoint may lie between any two of them: it holds everything that a
later unit reads. The replay lies beside it, append-only. Where agent.collection is `beside`, the steps of the next epoch are played in a
thread from the end of one collect phase to the next (`agent_beside`), whose seconds are then those of waiting for it alone.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from diamond_bench.agent import save_agent
from diamond_bench.costs.train_agent import Updates, agent_work, num_epochs
from diamond_bench.data.replay import Replay
from diamond_bench.envs.games import make_env
from diamond_bench.envs.lives import Frame
from diamond_bench.envs.play import Game, play_test_games
from diamond_bench.errors import UserError
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.agent_play import Play, play_for
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.jobs.execution import Execution, compile_rows, facts_of, made_on, resolve_for
from diamond_bench.jobs.parts import save_arrays
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.agents import AGENT_FOLDER
from diamond_bench.training.agent_quality import drift_quality, reward_end_quality
from diamond_bench.training.checkpoint import CheckpointWriter, load_checkpoints, set_aside_checkpoint, set_aside_checkpoints
from diamond_bench.training.log import Journal, NotFinite
from diamond_bench.training.means import Means

PHASES = ("collect", "denoiser", "reward_end", "actor_critic", "test")
_TICKS = 10_000
"""Progress of a whole run, in shares of its arithmetic."""
_TEST_SEED = 1 << 20
"""Apart from the seeds of collection, so that test games are never those of training."""


class _StopTest(Exception):
    """The job was asked to stop while test games were played; they are played anew when it goes on."""


@dataclass
class _Position:
    """Where a run is, and what it has seen; all of it is in a checkpoint."""

    epoch: int = 0
    phase: int = 0
    unit: int = 0
    units: int = 0
    """Since the beginning."""
    initial_steps: int | None = None
    """Real steps of the initial collection, once it is over."""
    signs: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Rewards of each sign seen in collection."""
    tests: list[dict[str, float]] = field(default_factory=list)
    """What each round of test games found."""
    last: dict[str, float] = field(default_factory=dict)
    """Means of the last finished epoch."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))


def run(config: TrainAgent, context: JobContext) -> Result:
    """Trains one agent and leaves it in agent/, with the course of its test returns in arrays.npz.

    Real steps never exceed agent.budget; test games, which select nothing, are not counted. Raises Interrupted with a checkpoint saved;
    UserError where a loss is not finite (the last checkpoint stays).
    """
    training = _Training(config, context)
    with training.running:
        return training.run()


class _Training:
    def __init__(self, config: TrainAgent, context: JobContext) -> None:
        self.config, self.context, self.device = config, context, torch.device(context.device)
        torch.manual_seed(config.seed)  # the weights' start; one job at a time runs in a worker
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.at = _Position()
        self.means = Means(self.device)
        self.shares = _shares(config)
        self.checkpoints = CheckpointWriter(context.folder / "checkpoint", context.check_owner, saved=Interrupted)
        self.replay: Replay
        self.play: Play
        self.learners: Learners
        self.running = ExitStack()
        """What must be ended however the job ends."""

    def _build(self, replay: Replay | None, execution: Execution) -> None:
        """The replay (or an empty one; a model-free agent needs none), and everything that reads it."""
        room = 1 if self.config.agent.model_free else self.config.agent.budget
        self.replay = Replay(room, self.config.env.frame_size, self.device) if replay is None else replay
        self.learners = Learners(self.config, self.device, self.replay, self.generator, execution)
        self.play = play_for(self.config, self.learners, self.replay, self.generator, self.device)
        self.running.callback(self.play.close)

    def run(self) -> Result:
        self._resume()
        journal = Journal(self.context.folder, self.at.epoch)
        saved = self.at.units
        try:
            with self.checkpoints:
                while not self._finished():
                    self._progress()
                    started, phase, epoch = time.perf_counter(), PHASES[self.at.phase], self.at.epoch
                    try:
                        over = self._unit(phase)
                    except _StopTest:
                        self._save()
                        raise Interrupted(f"saved before the test games of epoch {self.at.epoch + 1}") from None
                    self.at.units += 1
                    self.at.unit += 1
                    if over:
                        self._wait()
                        self.at.phase, self.at.unit = self.at.phase + 1, 0
                    if self.at.phase == len(PHASES):
                        self._end_epoch(journal)
                    self.at.seconds[phase] += time.perf_counter() - started
                    stopping = self.context.should_stop() and not self._finished()
                    every = self.config.agent.checkpoint_every
                    at_boundary = self.at.epoch > epoch and (self.at.epoch % every == 0 or epoch == 0)
                    if stopping or at_boundary or self.at.units - saved >= self.config.agent.checkpoint_units or self._finished():
                        self._save()
                        saved = self.at.units
                    if stopping:
                        raise Interrupted(f"saved in epoch {self.at.epoch + 1}, {self.play.real_steps} real steps done")
        except NotFinite as error:
            raise UserError(f"training stopped: {error}; the last good checkpoint is kept; try a lower learning rate") from error
        finally:
            journal.close()
        return self._publish()

    # One unit of a phase

    def _unit(self, phase: str) -> bool:
        """Does it; returns whether the phase is over (also where there is nothing to do in it)."""
        agent, at = self.config.agent, self.at
        if phase == "collect":
            over = self._collect()
            if over:
                self.play.begin(min(agent.steps_per_epoch, agent.budget - self.play.real_steps))
            return over
        if phase == "test":
            return self._test()
        first = at.epoch == 0
        asked = {
            "denoiser": agent.first_denoiser_updates if first else agent.denoiser_updates,
            "reward_end": agent.first_reward_end_updates if first else agent.reward_end_updates,
            "actor_critic": agent.first_actor_critic_updates if first else agent.actor_critic_updates,
        }[phase]
        if agent.model_free or at.unit >= asked:  # model-free, the policy learns while it plays
            return True
        for name, values in self.learners.update(phase).items():
            self.means.add(name, **values)
        return at.unit + 1 >= asked

    def _collect(self) -> bool:
        agent, at = self.config.agent, self.at
        left = agent.budget - self.play.real_steps
        if left <= 0:
            return True
        if at.epoch > 0 or agent.model_free:
            self._count(min(agent.steps_per_epoch, left))
            return True
        if self.play.real_steps == 0:
            self._count(min(agent.initial_steps, left))
        elif not self._enough():
            self._count(min(agent.steps_per_epoch, left, agent.initial_steps_most - self.play.real_steps))
        if self._enough():
            at.initial_steps = self.play.real_steps
            return True
        return False

    def _enough(self) -> bool:
        """The rule of the initial collection: rewards of the rarer two signs were seen, or it has gone on long enough."""
        agent, rare = self.config.agent, sum(sorted(self.at.signs)[:2])
        done = self.play.real_steps
        return done >= min(agent.initial_steps_most, agent.budget) or (done >= agent.initial_steps and rare >= agent.initial_rare_rewards)

    def _count(self, num_steps: int) -> None:
        collected = self.play.collect(num_steps, self.means)
        assert self.play.real_steps <= self.config.agent.budget, f"{self.play.real_steps} real steps"
        self.at.signs = [a + b for a, b in zip(self.at.signs, collected.reward_signs, strict=True)]
        for game in collected.games:
            self.means.add("collect", **_of_game(game, self.device))

    def _test(self) -> bool:
        agent, last = self.config.agent, self.at.epoch + 1 == self._num_epochs()
        if agent.test_every == 0 or ((self.at.epoch + 1) % agent.test_every and not last):
            return True
        config, learners = self.config, self.learners
        seen = Replay(1000 * agent.test_episodes, config.env.frame_size, "cpu", agent.test_episodes)
        games = play_test_games(
            lambda: make_env(config.game, config.env),
            PolicyPlayer(learners.agent.actor_critic),
            agent.test_episodes,
            agent.test_episodes,
            seed=_TEST_SEED + config.seed * 100_003 + self.at.epoch,
            max_steps=agent.test_max_steps,
            watch=self._stop_test,
            sink=seen,
        )
        found = {"epoch": float(self.at.epoch + 1), "real_steps": float(self.play.real_steps)}
        found["return"] = float(np.mean([game.score for game in games]))
        found["length"] = float(np.mean([game.length for game in games]))
        if learners.world is not None and learners.agent.reward_end is not None:
            settings = config.reward_end
            found |= reward_end_quality(learners.agent.reward_end, seen.episodes, settings.segment_length, settings.batch_size)
            horizon = settings.segment_length - learners.world.context  # the same for every imagination horizon
            drift = drift_quality(learners.world, seen.episodes, horizon, self.device, seed=config.seed)
            found |= {} if drift is None else {"drift": drift}
        self.at.tests.append(found)
        return True

    def _stop_test(self, index: int, frame: Frame, action: int, reward: float) -> None:
        if self.context.should_stop():
            raise _StopTest

    # Around the units

    def _num_epochs(self) -> int:
        return num_epochs(self.config, self.at.initial_steps)

    def _finished(self) -> bool:
        return self.at.epoch >= self._num_epochs()

    def _end_epoch(self, journal: Journal) -> None:
        values = self.means.read()
        wrong = [f"{name} {value:g}" for name, value in values.items() if not np.isfinite(value)]
        if wrong:
            raise NotFinite(f"epoch {self.at.epoch + 1}: not finite ({', '.join(wrong)})")
        self.at.last = values
        self.at.epoch, self.at.phase = self.at.epoch + 1, 0
        tested = self.at.tests[-1] if self.at.tests and self.at.tests[-1]["epoch"] == self.at.epoch else {}
        tests = {f"test/{name}": value for name, value in tested.items() if name not in ("epoch", "real_steps")}
        journal.write(self.at.epoch, {"real_steps": self.play.real_steps, **values, **tests})

    def _progress(self) -> None:
        at, counts = self.at, self.learners.counts()
        tested = f", last test return {at.tests[-1]['return']:.1f}" if at.tests else ""
        text = f"{PHASES[at.phase].replace('_', '/')} {at.unit}, {self.play.real_steps} real steps{tested}"
        made = (counts.get(name, 0) for name in ("denoiser", "reward_end", "actor_critic"))
        done = sum(count * share for count, share in zip(made, self.shares, strict=True))
        self.context.progress(min(_TICKS, int(_TICKS * done)), _TICKS, f"epoch {at.epoch + 1} of {self._num_epochs()}, {text}")

    def _wait(self) -> None:
        """So that a phase's time holds its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _save(self) -> None:
        for name, (total, _) in self.means.state_dict().items():
            if not torch.isfinite(total):
                raise NotFinite(f"epoch {self.at.epoch + 1}: {name} is not finite")
        self.context.check_owner()
        state = {
            "device": self.device.type,
            "compile": self.learners.execution.compile,
            "position": asdict(self.at),
            "means": self.means.state_dict(),
            "generator": self.generator.get_state(),
            "play": self.play.state_dict(),
            "learners": self.learners.state_dict(),
            "replay_rows": self.replay.save(self.context.folder / "checkpoint") if self.replay.num_rows else 0,
        }
        self.checkpoints.save(self.at.units, state)

    def _resume(self) -> None:
        folder = self.context.folder / "checkpoint"
        for units, state, file in load_checkpoints(folder, self.context.say):
            begun = state.get("compile", "none")
            execution = resolve_for(self.config, self.device, begun)
            theirs, ours = made_on(state["device"], begun), made_on(self.device.type, execution.compile)
            if theirs != ours:  # another device draws other numbers, and other code rounds otherwise: going on would mix the two
                self.context.say(f"the checkpoint was made on {theirs}; begun anew on {ours}")
                break
            rows, replay = state["replay_rows"], None
            try:
                if rows:
                    replay = Replay.load(folder, rows, self.config.agent.budget, self.config.env.frame_size, self.device)
            except UserError as error:
                self.context.say(f"{error}; the checkpoint after unit {units} is of no use without it, the one before it is tried")
                set_aside_checkpoint(file)
                continue
            self._build(replay, execution)
            self.at = _Position(**state["position"])
            self.means.load_state_dict(state["means"])
            self.generator.set_state(state["generator"])
            self.play.load_state_dict(state["play"])
            self.learners.load_state_dict(state["learners"])
            made = ", ".join(f"{count} updates of the {name.replace('_', '/')}" for name, count in self.learners.counts().items() if count)
            self.context.say(f"resumed in epoch {self.at.epoch + 1}, after {self.play.real_steps} real steps{f', {made}' if made else ''}")
            return
        set_aside_checkpoints(folder)  # of no use to a run that begins anew
        self._build(None, resolve_for(self.config, self.device))

    def _publish(self) -> Result:
        config, at = self.config, self.at
        self.context.check_owner()
        save_agent(self.learners.agent, self.context.folder / AGENT_FOLDER)
        names = sorted({name for test in at.tests for name in test})
        curves = {f"test_{name}": np.array([test.get(name, np.nan) for test in at.tests]) for name in names}
        save_arrays(self.context.folder / "arrays.npz", curves)
        rows = [Row("real_steps", float(self.play.real_steps)), *_last_rows(at)]
        seconds = sum(at.seconds.values())
        rows += [Row("training_seconds", seconds, measured=True)]
        rows += [Row(f"{phase}_seconds", at.seconds[phase], measured=True) for phase in PHASES]
        facts: dict[str, Any] = {
            "game": config.game,
            "real_steps": self.play.real_steps,
            "initial_steps": at.initial_steps,
            "epochs": at.epoch,
            "updates": self.learners.counts(),
            "reward_signs": at.signs,
            "episodes": self.replay.num_episodes,
            "seconds_by_phase": at.seconds,
            "work": agent_work(config),
            "work_seconds": seconds,
            "execution": facts_of(self.learners.execution),
        }
        return Result(rows + compile_rows(self.learners.compilable), facts)


_LAST: tuple[tuple[str, Callable[[_Position], float | None]], ...] = (
    ("denoiser_loss", lambda at: at.last.get("denoiser/loss")),
    ("reward_end_loss", lambda at: at.last.get("reward_end/loss")),
    ("reward_f1", lambda at: at.tests[-1].get("reward_f1") if at.tests else None),
    ("end_f1", lambda at: at.tests[-1].get("end_f1") if at.tests else None),
    ("drift", lambda at: at.tests[-1].get("drift") if at.tests else None),
)


def _shares(config: TrainAgent) -> tuple[float, ...]:
    """What share of a run's arithmetic one update of denoiser, reward/end model and actor-critic is; too slow to ask at each."""
    whole = max(1.0, agent_work(config))
    return tuple(agent_work(config, Updates(*counts)) / whole for counts in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


def _last_rows(at: _Position) -> list[Row]:
    """What the last epoch and the last test said; what was not measured has no row."""
    return [Row(name, value) for name, find in _LAST if (value := find(at)) is not None]


def _of_game(game: Game, device: torch.device) -> dict[str, torch.Tensor]:
    return {"return": torch.tensor(game.score, device=device), "length": torch.tensor(float(game.length), device=device)}
