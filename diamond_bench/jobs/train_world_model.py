"""The job `train_world_model`: a world model is trained on the segments of a static dataset. It resumes bit for bit."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from diamond_bench.costs.train_world_model import training_flops
from diamond_bench.data.segments import tensors_of
from diamond_bench.data.sources import SegmentSource, open_source
from diamond_bench.data.static import load_info
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.jobs.execution import Execution, compile_rows, facts_of, resolve
from diamond_bench.jobs.gradients import Gradients
from diamond_bench.jobs.peers import Peers, peers_of
from diamond_bench.spaces import WorldSpec
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.training.average import WeightAverage
from diamond_bench.training.log import TrainingLog
from diamond_bench.training.loop import Loop, Saved
from diamond_bench.worlds.contract import TrainedWorld

_LOGGED = ("loss", "grad_norm")
_RECENT = 100
"""Number of last updates over which train_loss averages."""


_AVERAGE_FOLDER = "ema"


def model_folder(training: Path, milestone: float, weights: Literal["last", "ema"] = "last") -> Path:
    """The folder of a milestone's model (a fraction of the updates), with its last weights or their average."""
    folder = training / "models" / f"{milestone:g}"
    return folder if weights == "last" else folder / _AVERAGE_FOLDER


def run(config: TrainWorldModel, context: JobContext) -> Result:
    """Trains for `training.num_steps` updates and keeps a model at each milestone (models/0.25/, ...).

    Raises Interrupted with a checkpoint saved, and UserError if the loss is not finite (the last checkpoint stays).
    """
    dataset = load_info(context.inputs["dataset"])
    work = training_flops(config, dataset.spec.frames)
    loop = Loop(context, config.training.checkpoint_every)
    settings, split = config.training, context.inputs["dataset"] / "train"
    opened = open_source(settings.segments, split, context.device, settings.readers)
    with closing(opened) as source, peers_of(config, context) as peers:
        training = loop.begin(
            lambda begun: resolve(config.execution, torch.device(context.device), work, begun),
            lambda execution, saved: _Training(config, context, dataset.spec, source, execution, saved, peers),
        )
        finished = loop.run(training)
    if not finished:
        raise Interrupted(f"saved {training.where()}")
    seconds = training.seconds
    rows = [
        Row("train_loss", float(training.recent.double().mean())),
        Row("training_seconds", seconds, measured=True),
        Row("updates_per_second", training.done / seconds, measured=True),
        *compile_rows(training.model.compilable),
    ]
    facts = {
        "updates": training.done,
        "networks": [trainable.name for trainable in training.trainables],
        "train_frames": dataset.num_train_frames,
        "execution": facts_of(training.execution),
        **training.model.measured,
    }
    return Result(rows, {**facts, "work": work, "work_seconds": seconds})


class _Training(Gradients):
    """Updates of a world model, network after network. With several processes, this one leads."""

    def __init__(
        self,
        config: TrainWorldModel,
        context: JobContext,
        spec: WorldSpec,
        source: SegmentSource,
        execution: Execution,
        saved: Saved | None,
        peers: Peers | None,
    ) -> None:
        self.context, self._peers = context, peers
        training, device = config.training, torch.device(context.device)
        super().__init__(config, spec, source, execution, device, None if peers is None else peers.processes)
        networks = [trainable.network for trainable in self.trainables]
        self.averages = [] if training.ema is None else [WeightAverage(network, training.ema) for network in networks]
        self.recent = torch.zeros(min(_RECENT, training.num_steps), device=device)
        """The last losses; that of update i lies at i % len. train_loss is their mean, however often lines are logged."""
        optional = tuple(dict.fromkeys(name for trainable in self.trainables for name in trainable.logged))
        pending, seconds = torch.zeros(0, len(_LOGGED), device=device), 0.0
        if saved is None:
            self.model.measure(source)
        else:
            state = saved.state
            for number, (trainable, learner) in enumerate(zip(self.trainables, self.learners, strict=True)):
                learner.network.load_state_dict(state[trainable.name])
                learner.updates = min(max(saved.done - number * training.num_steps, 0), training.num_steps)
            learner = self.learners[self.number]
            learner.load_state_dict({**learner.state_dict(), "optimizer": state["optimizer"]})
            kept = iter(state["ema"]["averages"] if self.averages else ())
            for average in self.averages:
                average.load_state_dict({"averages": list(islice(kept, len(average)))})
            self.generator.set_state(state["generator"])
            self.recent.copy_(state["recent"])
            pending, seconds = state["pending"].to(device), state["seconds"]
        self.log = TrainingLog(context.folder, _LOGGED, training.log_every, self.done, pending, optional)
        self.milestones = {training.milestone_step(milestone) for milestone in training.milestones}
        self.started = time.perf_counter() - seconds

    @property
    def done(self) -> int:
        """Updates of all networks so far."""
        return sum(learner.updates for learner in self.learners)

    @property
    def total(self) -> int:
        """Total number of updates."""
        return len(self.learners) * self.config.training.num_steps

    @property
    def number(self) -> int:
        """Index in `trainables` of the network in training, or of the last one."""
        return min(self.done // self.config.training.num_steps, len(self.learners) - 1)

    @property
    def seconds(self) -> float:
        """Seconds since the training began, over all attempts."""
        return time.perf_counter() - self.started

    def units(self) -> Iterator[bool]:
        """The updates (method section 5)."""
        if self._peers is not None:
            self._peers.begin(self.execution, self.generator.get_state(), [learner.updates for learner in self.learners], self.state())
        for number in range(len(self.trainables)):
            yield from self.updates(number)
        self.log.write()

    def updates(self, number: int) -> Iterator[bool]:
        """The updates of one network. Milestones belong to the updates of the last network."""
        training, learner, feed, loss_of = self.config.training, self.learners[number], self.feeds[number], self.loss_of(number)
        last = number == len(self.learners) - 1
        while learner.updates < training.num_steps:
            yield last and learner.updates in self.milestones
            with self._peers.updating(number) if self._peers is not None else nullcontext():
                found = learner.learn(loss_of, tensors_of(next(feed)), [self.generator])
            if learner.updates < training.num_steps:
                feed.read_ahead()
            if self.averages:
                self.averages[number].update(learner.updates)
            self.recent[(self.done - 1) % len(self.recent)] = found["loss"]
            self.log.add(found)
            if last:
                self.keep_milestones(learner.updates)

    def keep_milestones(self, done: int) -> None:
        """Keeps the model at milestones. Raises NotFinite."""
        reached = [milestone for milestone in self.config.training.milestones if self.config.training.milestone_step(milestone) == done]
        if reached:
            self.log.pending()  # refuses a loss that is not finite
            self.context.check_owner()
            for milestone in reached:
                _keep(self.model, self.averages, model_folder(self.context.folder, milestone))

    def where(self) -> str:
        """See `loop.Training.where`."""
        return f"after update {self.done} of {self.total}"

    def progress(self) -> tuple[int, int, str]:
        """See `loop.Training.progress`."""
        last = f"loss {self.log.last['loss']:.4f}" if self.log.last else f"learning rate {self.learners[self.number].rate:.1e}"
        return self.done, self.total, last

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Training.state_dict`. For networks that are not being trained, only the weights are needed."""
        averages = [tensor for average in self.averages for tensor in average.state_dict()["averages"]]
        return {
            "pending": self.log.pending(),
            "recent": self.recent,
            **{trainable.name: trainable.network.state_dict() for trainable in self.trainables},
            "optimizer": self.learners[self.number].state_dict()["optimizer"],
            **({"ema": {"averages": averages}} if self.averages else {}),
            "generator": self.feeds[self.number].generator_state(),
            "seconds": self.seconds,
        }

    def close(self) -> None:
        """See `loop.Training.close`."""
        self.log.close()
        for feed in self.feeds:
            feed.close()


def _keep(model: TrainedWorld, averages: Sequence[WeightAverage], folder: Path) -> None:
    """Publishes a milestone's model under its final name once it is complete."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save(partial)
    if averages:
        (partial / _AVERAGE_FOLDER).mkdir()
        with ExitStack() as averaged:
            for average in averages:
                averaged.enter_context(average.in_place())
            model.save(partial / _AVERAGE_FOLDER)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
