"""The job `train_agent`: play, learn a world model, learn to act in it (method section 6). It resumes bit for bit.

`_Training.units` is the algorithm. A checkpoint may lie between any two of its units, and contains everything that later units read. The
replay lies next to it and only grows. If agent.collection is `concurrent`, a thread plays the steps of the next epoch from the end of one
collect phase to the next (`agent_concurrent`). The seconds of collection are then the time spent waiting for the thread.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from diamond_bench.agent import save_agent
from diamond_bench.costs.train_agent import Updates, agent_work, num_epochs
from diamond_bench.data.replay import Replay
from diamond_bench.envs.play import BLOCK, Game
from diamond_bench.errors import UserError
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.agent_play import play_for
from diamond_bench.jobs.agent_position import PHASES, Position
from diamond_bench.jobs.agent_test_games import test_games
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.jobs.execution import Execution, compile_rows, facts_of, resolve_for
from diamond_bench.jobs.parts import save_arrays
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.agents import AGENT_FOLDER
from diamond_bench.training.log import Journal
from diamond_bench.training.loop import Loop, Saved, Unusable
from diamond_bench.training.means import Means

_TICKS = 10_000
"""Progress of a whole run, in shares of its arithmetic."""


def run(config: TrainAgent, context: JobContext) -> Result:
    """Trains one agent and writes it to agent/, and its test returns over the training to arrays.npz.

    Real steps never exceed agent.budget. Test games select nothing and do not count. Raises Interrupted with a checkpoint saved, and
    UserError if a loss is not finite (the last checkpoint stays).
    """
    loop = Loop(context, config.agent.checkpoint_units, "try a lower learning rate")
    training = loop.begin(
        lambda begun: resolve_for(config, torch.device(context.device), begun),
        lambda execution, saved: _Training(config, context, execution, _replay(config, context, saved), saved),
    )
    if not loop.run(training):
        raise Interrupted(f"saved {training.where()}")
    context.check_owner()
    save_agent(training.learners.agent, context.folder / AGENT_FOLDER)
    tests = training.at.tests
    names = sorted({name for test in tests for name in test})
    curves = {f"test_{name}": np.array([test.get(name, np.nan) for test in tests]) for name in names}
    save_arrays(context.folder / "arrays.npz", curves)
    return _result(training)


def _replay(config: TrainAgent, context: JobContext, saved: Saved | None) -> Replay:
    """The replay of a checkpoint, or an empty one (a model-free agent needs none). Raises Unusable if its file is damaged or lost."""
    agent, size, device = config.agent, config.env.frame_size, torch.device(context.device)
    if saved is None or not saved.state["replay_rows"]:
        return Replay(1 if agent.model_free else agent.budget, size, device)
    try:
        return Replay.load(context.folder / "checkpoint", saved.state["replay_rows"], agent.budget, size, device)
    except UserError as error:
        raise Unusable(str(error)) from error


class _Training:
    def __init__(self, config: TrainAgent, context: JobContext, execution: Execution, replay: Replay, saved: Saved | None) -> None:
        self.config, self.context, self.execution, self.replay = config, context, execution, replay
        self.device = torch.device(context.device)
        torch.manual_seed(config.seed)  # for the initial weights; a worker runs one job at a time
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.at, self.means = Position(), Means(self.device)
        self.learners = Learners(config, self.device, replay, self.generator, execution)
        self.play = play_for(config, self.learners, replay, self.generator, self.device)
        if saved is not None:
            self.at = Position(**saved.state["position"])
            self.means.load_state_dict(saved.state["means"])
            self.generator.set_state(saved.state["generator"])
            self.learners.load_state_dict(saved.state["learners"])
            self.play.load_state_dict(saved.state["play"])
        self.journal = Journal(context.folder, self.at.epoch)
        self.shares = _shares(config)

    # The algorithm

    def units(self) -> Iterator[bool]:
        """Method section 6. Each unit is a block of real steps, an update of a network, or a round of test games."""
        at, agent = self.at, self.config.agent
        while at.epoch < self.num_epochs():
            world_model, reward_end, policy = self.num_updates()
            yield from at.run("collect", self.blocks(), self.collect, self.wait)
            yield from at.run("denoiser", range(world_model), self.update("denoiser"), self.wait)
            yield from at.run("reward_end", range(reward_end), self.update("reward_end"), self.wait)
            yield from at.run("actor_critic", range(policy), self.update("actor_critic"), self.wait)
            yield from at.run("test", range(self.num_tests()), self.test, self.wait)
            self.end_epoch()
            if at.epoch < self.num_epochs():
                yield at.epoch == 1 or at.epoch % agent.checkpoint_every == 0

    def blocks(self) -> Iterator[int]:
        """Sizes of the epoch's blocks of real steps. In the first epoch `enough` decides on their number. The last epochs have none."""
        agent, at = self.config.agent, self.at
        if at.epoch > 0 or agent.model_free:
            if self.steps_left():
                yield min(agent.steps_per_epoch, self.steps_left())
        else:
            while self.play.real_steps < min(agent.initial_steps, agent.budget):  # short blocks, so that it can be stopped within
                yield min(BLOCK, agent.initial_steps - self.play.real_steps, self.steps_left())
            while not self.enough():
                yield min(agent.steps_per_epoch, self.steps_left(), agent.max_initial_steps - self.play.real_steps)
            at.initial_steps = self.play.real_steps
            if self.learners.agent.world_model is not None:
                self.learners.agent.world_model.measure(self.replay.episodes)
        self.play.begin(min(agent.steps_per_epoch, self.steps_left()))

    def enough(self) -> bool:
        """Whether the initial collection is over: it has enough rewards of the rarer of the two signs, or has reached its maximum."""
        agent, rare = self.config.agent, sum(sorted(self.at.signs)[:2])
        done = self.play.real_steps
        return done >= min(agent.max_initial_steps, agent.budget) or (done >= agent.initial_steps and rare >= agent.initial_rare_rewards)

    def collect(self, num_steps: int) -> None:
        """Plays a block of real steps into the replay. A model-free policy learns during play."""
        collected = self.play.collect(num_steps, self.means)
        assert self.play.real_steps <= self.config.agent.budget, f"{self.play.real_steps} real steps"
        self.at.signs = [a + b for a, b in zip(self.at.signs, collected.reward_signs, strict=True)]
        for game in collected.games:
            self.means.add("collect", **_of_game(game, self.device))

    def num_updates(self) -> tuple[int, int, int]:
        """Updates of world model, reward/end model and policy in this epoch. A model-free policy learns during play. Networks that the
        agent does not train have none."""
        agent = self.config.agent
        if agent.model_free:
            return 0, 0, 0
        if self.at.epoch == 0:
            asked = agent.first_denoiser_updates, agent.first_reward_end_updates, agent.first_actor_critic_updates
        else:
            asked = agent.denoiser_updates, agent.reward_end_updates, agent.actor_critic_updates
        return asked[0] * self.config.trains_world_model, asked[1] * self.config.trains_reward_end, asked[2]

    def update(self, network: str) -> Callable[[int], None]:
        """One update of a network. Its scalars enter the epoch's means."""

        def update(number: int) -> None:
            for name, values in self.learners.update(network).items():
                self.means.add(name, **values)

        return update

    def num_tests(self) -> int:
        """Rounds of test games in this epoch: one or none."""
        every, epoch = self.config.agent.test_every, self.at.epoch + 1
        return int(every > 0 and (epoch % every == 0 or epoch == self.num_epochs()))

    def test(self, number: int) -> None:
        """Plays the test games."""
        found = test_games(self.config, self.learners, self.at.epoch, self.context.should_stop, self.device)
        self.at.tests.append({"epoch": float(self.at.epoch + 1), "real_steps": float(self.play.real_steps), **found})

    def end_epoch(self) -> None:
        """Writes the epoch's line. Raises NotFinite if a mean is not finite."""
        self.at.end_epoch(self.means.read())
        tested = self.at.tests[-1] if self.at.tests and self.at.tests[-1]["epoch"] == self.at.epoch else {}
        tests = {f"test/{name}": value for name, value in tested.items() if name not in ("epoch", "real_steps")}
        self.journal.write(self.at.epoch, {"real_steps": self.play.real_steps, **self.at.last, **tests})

    def num_epochs(self) -> int:
        """As far as it is known: it depends on the length of the initial collection."""
        return num_epochs(self.config, self.at.initial_steps)

    def steps_left(self) -> int:
        """Remaining real steps of the budget."""
        return self.config.agent.budget - self.play.real_steps

    def wait(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    # The interface of the loop (loop.Training)

    @property
    def done(self) -> int:
        """See `loop.Training.done`."""
        return self.at.units

    def where(self) -> str:
        """See `loop.Training.where`."""
        done_updates = "".join(f", {count} updates of the {_in_words(name)}" for name, count in self.learners.counts().items() if count)
        return f"in epoch {self.at.epoch + 1}, after {self.play.real_steps} real steps{done_updates}"

    def progress(self) -> tuple[int, int, str]:
        """See `loop.Training.progress`."""
        at, counts = self.at, self.learners.counts()
        done_updates = (self.learners.world_updates, *(counts.get(name, 0) for name in ("reward_end", "actor_critic")))
        done = sum(count * share for count, share in zip(done_updates, self.shares, strict=True))
        tested = f", last test return {at.tests[-1]['return']:.1f}" if at.tests else ""
        text = f"{_in_words(PHASES[at.phase])} {at.unit}, {self.play.real_steps} real steps{tested}"
        return min(_TICKS, int(_TICKS * done)), _TICKS, f"epoch {at.epoch + 1} of {self.num_epochs()}, {text}"

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Training.state_dict`."""
        return {
            "position": asdict(self.at),
            "means": self.means.state_dict(),
            "generator": self.generator.get_state(),
            "play": self.play.state_dict(),
            "learners": self.learners.state_dict(),
            "replay_rows": self.replay.save(self.context.folder / "checkpoint") if self.replay.num_rows else 0,
        }

    def close(self) -> None:
        """See `loop.Training.close`."""
        self.journal.close()
        self.play.close()


def _result(training: _Training) -> Result:
    config, at = training.config, training.at
    seconds = sum(at.seconds.values())
    rows = [Row("real_steps", float(training.play.real_steps)), *_last_rows(at)]
    rows += [Row("training_seconds", seconds, measured=True)]
    rows += [Row(f"{phase}_seconds", at.seconds[phase], measured=True) for phase in PHASES]
    facts: dict[str, Any] = {
        "game": config.game,
        "real_steps": training.play.real_steps,
        "initial_steps": at.initial_steps,
        "epochs": at.epoch,
        "updates": training.learners.counts(),
        "reward_signs": at.signs,
        "episodes": training.replay.num_episodes,
        "seconds_by_phase": at.seconds,
        "work": agent_work(config),
        "work_seconds": seconds,
        "execution": facts_of(training.execution),
        **({} if training.learners.agent.world_model is None else training.learners.agent.world_model.measured),
    }
    return Result(rows + compile_rows(training.learners.compilable), facts)


_LAST: tuple[tuple[str, Callable[[Position], float | None]], ...] = (
    ("denoiser_loss", lambda at: at.last.get("denoiser/loss")),
    ("reward_end_loss", lambda at: at.last.get("reward_end/loss")),
    ("reward_f1", lambda at: at.tests[-1].get("reward_f1") if at.tests else None),
    ("end_f1", lambda at: at.tests[-1].get("end_f1") if at.tests else None),
    ("drift", lambda at: at.tests[-1].get("drift") if at.tests else None),
)


def _shares(config: TrainAgent) -> tuple[float, ...]:
    """The share of one update of denoiser, reward/end model and actor-critic in a run's arithmetic. Computed once, since it is slow."""
    whole = max(1.0, agent_work(config))
    return tuple(agent_work(config, Updates(*counts)) / whole for counts in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


def _last_rows(at: Position) -> list[Row]:
    """Rows of the last epoch and of the last test games. Values that were not measured have no row."""
    return [Row(name, value) for name, find in _LAST if (value := find(at)) is not None]


def _of_game(game: Game, device: torch.device) -> dict[str, torch.Tensor]:
    return {"return": torch.tensor(game.score, device=device), "length": torch.tensor(float(game.length), device=device)}


def _in_words(network: str) -> str:
    return network.replace("_", "/")
