"""The job `train_world_model`: a world model trained on the segments of a static dataset, resumable bit for bit."""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch

from diamond_bench.costs.train_world_model import training_flops
from diamond_bench.data.segments import Segments, tensors_of
from diamond_bench.data.sources import Feed, SegmentSource, open_source
from diamond_bench.data.static import load_info
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.jobs.execution import Execution, apply, compile_rows, facts_of, resolve
from diamond_bench.spaces import WorldSpec
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.training.average import WeightAverage
from diamond_bench.training.learner import Learner
from diamond_bench.training.log import TrainingLog
from diamond_bench.training.loop import Loop, Saved
from diamond_bench.worlds.contract import TrainedWorld
from diamond_bench.worlds.families import build_world_model

_LOGGED = ("loss", "grad_norm")
_RECENT = 100
"""Updates whose losses train_loss averages."""


_AVERAGE_FOLDER = "ema"


def model_folder(training: Path, milestone: float, weights: Literal["last", "ema"] = "last") -> Path:
    """Where a training keeps the model of a milestone (a fraction of its updates), with its last weights or their average."""
    folder = training / "models" / f"{milestone:g}"
    return folder if weights == "last" else folder / _AVERAGE_FOLDER


def run(config: TrainWorldModel, context: JobContext) -> Result:
    """Trains for `training.num_steps` updates and keeps a model at each milestone (models/0.25/, ...).

    Raises Interrupted with a checkpoint saved, and UserError where the loss is not finite (the last checkpoint stays).
    """
    dataset = load_info(context.inputs["dataset"])
    work = training_flops(config, dataset.spec.frames)
    loop = Loop(context, config.training.checkpoint_every)
    with closing(open_source(config.training.segments, context.inputs["dataset"] / "train", context.device)) as source:
        training = loop.begin(
            lambda begun: resolve(config.execution, torch.device(context.device), work, begun),
            lambda execution, saved: _Training(config, context, dataset.spec, source, execution, saved),
        )
        finished = loop.run(training)
    if not finished:
        raise Interrupted(f"saved {training.where()}")
    seconds = training.seconds
    rows = [
        Row("train_loss", float(training.recent.double().mean())),
        Row("training_seconds", seconds, measured=True),
        Row("updates_per_second", training.done / seconds, measured=True),
        *compile_rows([training.trainable.network]),
    ]
    facts = {
        "updates": training.done,
        "train_frames": dataset.num_train_frames,
        "execution": facts_of(training.execution),
        **training.model.measured,
    }
    return Result(rows, {**facts, "work": work, "work_seconds": seconds})


class _Training:
    """Updates of a world model. One generator, seeded by the run's seed, feeds all draws but those of the first weights."""

    def __init__(
        self,
        config: TrainWorldModel,
        context: JobContext,
        spec: WorldSpec,
        source: SegmentSource,
        execution: Execution,
        saved: Saved | None,
    ) -> None:
        self.config, self.context, self.execution = config, context, execution
        training, device = config.training, torch.device(context.device)
        torch.manual_seed(config.seed)  # for the first weights; a worker runs one job at a time
        self.model = build_world_model(
            config.objective,
            config.conditioning,
            config.network,
            spec.actions,
            spec.frames,
            config.execution.precision,
            device,
        )
        (self.trainable,) = self.model.trainables(training)
        network = self.trainable.network
        apply(execution, {network: {training.batch_size}} if execution.compile == "all" else {})
        self.learner = Learner(network, training, execution.fused, execution.records_updates)
        self.average = None if training.ema is None else WeightAverage(network, training.ema)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.recent = torch.zeros(min(_RECENT, training.num_steps), device=device)
        """The last losses, that of update i at i % len. train_loss is their mean, however often lines are logged."""
        pending, seconds = torch.zeros(0, len(_LOGGED), device=device), 0.0
        if saved is None:
            self.model.measure(source)
        else:
            state = saved.state
            self.learner.load_state_dict({"network": state["denoiser"], "optimizer": state["optimizer"], "updates": saved.done})
            if self.average is not None:
                self.average.load_state_dict(state["ema"])
            self.generator.set_state(state["generator"])
            self.recent.copy_(state["recent"])
            pending, seconds = state["pending"].to(device), state["seconds"]
        self.feed = Feed(source, training.batch_size, self.trainable.segment_length, self.generator)
        self.log = TrainingLog(context.folder, _LOGGED, training.log_every, self.done, pending)
        self.milestones = {training.milestone_step(milestone) for milestone in training.milestones}
        self.started = time.perf_counter() - seconds

    @property
    def done(self) -> int:
        """Updates."""
        return self.learner.updates

    @property
    def seconds(self) -> float:
        """Since the training began, all attempts together."""
        return time.perf_counter() - self.started

    def units(self) -> Iterator[bool]:
        """The updates (method section 5)."""
        training = self.config.training
        while self.done < training.num_steps:
            yield self.done in self.milestones
            found = self.learner.learn(self.loss, tensors_of(next(self.feed)), [self.generator])
            self.feed.read_ahead()
            if self.average is not None:
                self.average.update(self.done)
            self.recent[(self.done - 1) % len(self.recent)] = found["loss"]
            self.log.add(*(found[name] for name in _LOGGED))
            self.keep_milestones()
        self.log.write()

    def keep_milestones(self) -> None:
        """Keep the model where it is at a milestone. Raises NotFinite."""
        reached = [
            milestone for milestone in self.config.training.milestones if self.config.training.milestone_step(milestone) == self.done
        ]
        if reached:
            self.log.pending()  # refuses a loss that is not finite
            self.context.check_owner()
            for milestone in reached:
                _keep(self.model, self.average, model_folder(self.context.folder, milestone))

    def loss(self, *batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch, given as the tensors of `Segments`."""
        loss, _ = self.trainable.loss(Segments(*batch), self.generator)
        if not self.execution.records_updates:
            self.feed.read_ahead()  # during the backward pass
        return loss, {"loss": loss.detach()}

    def where(self) -> str:
        """As `loop.Training.where`."""
        return f"after update {self.done} of {self.config.training.num_steps}"

    def progress(self) -> tuple[int, int, str]:
        """As `loop.Training.progress`."""
        last = f"loss {self.log.last['loss']:.4f}" if self.log.last else f"learning rate {self.learner.rate:.1e}"
        return self.done, self.config.training.num_steps, last

    def state_dict(self) -> dict[str, Any]:
        """As `loop.Training.state_dict`."""
        learned = self.learner.state_dict()
        return {
            "pending": self.log.pending(),
            "recent": self.recent,
            "denoiser": learned["network"],
            "optimizer": learned["optimizer"],
            **({} if self.average is None else {"ema": self.average.state_dict()}),
            "generator": self.feed.generator_state(),
            "seconds": self.seconds,
        }

    def close(self) -> None:
        """As `loop.Training.close`."""
        self.log.close()
        self.feed.close()


def _keep(model: TrainedWorld, average: WeightAverage | None, folder: Path) -> None:
    """Publishes a milestone's model under its final name only when it is whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save(partial)
    if average is not None:
        (partial / _AVERAGE_FOLDER).mkdir()
        with average.in_place():
            model.save(partial / _AVERAGE_FOLDER)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
