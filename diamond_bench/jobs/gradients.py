"""The part of a world model's training that every one of its processes has: the networks, the batches and the losses."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from diamond_bench.data.segments import Segments
from diamond_bench.data.sources import Feed, SegmentSource
from diamond_bench.jobs.execution import Execution, apply, supported_by
from diamond_bench.spaces import WorldSpec
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.training.learner import Learner
from diamond_bench.training.processes import Processes
from diamond_bench.worlds.families import build_world_model


class Gradients:
    """A world model whose networks are updated one after the other.

    One generator, seeded by the run's seed, draws all batches. It also draws the noise if an update has one batch. Otherwise each batch's
    noise has a seed of its own (`_seed`), so that the numbers do not depend on which process computes the batch.
    """

    def __init__(
        self,
        config: TrainWorldModel,
        spec: WorldSpec,
        source: SegmentSource,
        execution: Execution,
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        training = config.training
        torch.manual_seed(config.seed)  # for the initial weights; a worker runs one job at a time
        assert config.execution.precision in ("auto", execution.precision), f"{execution.precision}, not {config.execution.precision}"
        self.config, self.model = config, build_world_model(config, spec, execution.precision, device)
        self.execution = execution = supported_by(self.model, execution)
        apply(execution, dict.fromkeys(self.model.compilable, (training.batch_size,)) if execution.compile == "all" else {})
        self.trainables = self.model.trainables(training)
        self.learners = [
            Learner(
                trainable.network,
                trainable.optimizer or training,
                execution.fused,
                execution.records_updates,
                accumulation=training.accumulation,
                processes=processes,
                apart=trainable.apart,
            )
            for trainable in self.trainables
        ]
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self._noise = self.generator if training.accumulation == 1 else torch.Generator(device)
        self._rank, size = (processes.rank, processes.size) if processes else (0, 1)
        self._parts = training.accumulation // size
        self.feeds = [
            Feed(
                source,
                (trainable.batch_size or training.batch_size) * training.accumulation,
                trainable.segment_length,
                self.generator,
                (self._rank, size),
            )
            for trainable in self.trainables
        ]

    def loss_of(self, number: int) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
        """The loss of a network on one batch, to be called in the order of the batches. It begins to read the next update's batches as soon
        as this update has drawn all its noise."""
        training, trainable, learner, feed = self.config.training, self.trainables[number], self.learners[number], self.feeds[number]
        done = 0

        def loss_of(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            nonlocal done
            if training.accumulation > 1:
                part = self._rank * self._parts + done % self._parts
                self._noise.manual_seed(_seed(self.config.seed, number, learner.updates, part))
            segments = Segments(*batch)
            if training.action_shift:  # the last action of a segment is never used
                segments = replace(segments, actions=segments.actions.roll(-training.action_shift, dims=1))
            loss, metrics = trainable.loss(segments, self._noise)
            done += 1
            drawn = done % self._parts == 0
            if drawn and not self.execution.records_updates and learner.updates + 1 < training.num_steps:
                feed.read_ahead()  # during the backward pass
            return loss, trainable.found(loss, metrics)

        return loss_of

    def state(self) -> list[Tensor]:
        """All tensors that the losses depend on: weights and measured constants."""
        return [tensor for trainable in self.trainables for tensor in trainable.network.state_dict().values()]


def _seed(*numbers: int) -> int:
    """A seed for torch, 63 bits."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1
