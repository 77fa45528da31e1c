"""The job `train_state_probe`: a small network learns to read the state in the game's memory from true frames."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diamond_bench.config.probe import ProbeConfig
from diamond_bench.costs.train_state_probe import training_flops
from diamond_bench.data.static import load_info, load_split
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.jobs.execution import Execution
from diamond_bench.jobs.probe_tasks import ProbeTask, probe_task
from diamond_bench.models.precision import arithmetic
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.kinds import TrainStateProbe
from diamond_bench.training.log import NotFinite
from diamond_bench.training.loop import Loop, Saved
from diamond_bench.training.optimizer import make_optimizer, set_learning_rate


def run(config: TrainStateProbe, context: JobContext) -> Result:
    """Trains for `probe.num_steps` updates, measures the probe on the held-out split, and writes probe/.

    Raises Interrupted with a checkpoint saved, and UserError for a dataset without game or memory, or if the loss is not finite.
    """
    dataset, device = context.inputs["dataset"], torch.device(context.device)
    game = load_info(dataset).content.get("game")
    if game is None:
        raise UserError(f"{dataset}: the dataset does not name its game; leave state out of metrics")
    episodes = load_split(dataset, "train").to(device)
    frames = FrameSpec(*episodes.frames.shape[-2:])
    task = probe_task(game, config.probe, dataset, frames, device)
    loop = Loop(context, config.probe.checkpoint_every, "try a lower probe.learning_rate")
    training = loop.begin(
        lambda begun: Execution(), lambda execution, saved: _Training(config.probe, episodes.frames, task, execution, saved)
    )
    if not loop.run(training):
        raise Interrupted(f"saved {training.where()}")
    network, seconds = training.network.eval(), training.seconds

    context.check_owner()
    rows, measured = task.finish(network, context.folder)
    work = training_flops(config, frames, game)
    return Result(rows, {"game": game, **measured, "work": work, "work_seconds": seconds})


class _Training:
    """Updates of a probe. One generator, seeded by the probe's seed, feeds all draws except those of the initial weights."""

    def __init__(self, probe: ProbeConfig, frames: Tensor, task: ProbeTask, execution: Execution, saved: Saved | None) -> None:
        """`frames`: of the training split, (N, 3, h, w) uint8 on the device."""
        self.probe, self.frames, self.task, self.execution = probe, frames, task, execution
        device = self.frames.device
        torch.manual_seed(probe.seed)  # for the initial weights; a worker runs one job at a time
        self.network = task.build().to(device)
        self.optimizer = make_optimizer(self.network, probe)
        self.generator = torch.Generator(device).manual_seed(probe.seed)
        self.loss = torch.zeros((), device=device)
        self.done, seconds = 0, 0.0
        if saved is not None:
            self.done, seconds = saved.done, saved.state["seconds"]
            self.network.load_state_dict(saved.state["network"])
            self.optimizer.load_state_dict(saved.state["optimizer"])
            self.generator.set_state(saved.state["generator"])
        self.started = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """Seconds since the training began, over all attempts."""
        return time.perf_counter() - self.started

    def units(self) -> Iterator[bool]:
        """The updates. Their frames are drawn with replacement, and noise is added."""
        probe, device = self.probe, self.frames.device
        while self.done < probe.num_steps:
            yield False
            set_learning_rate(self.optimizer, probe, self.done)
            chosen = torch.randint(len(self.frames), (probe.batch_size,), generator=self.generator, device=device)
            frames = from_bytes(self.frames[chosen])
            if probe.pixel_noise:
                level = torch.rand((len(frames), 1, 1, 1), generator=self.generator, device=device) * probe.pixel_noise
                frames = frames + level * torch.randn(frames.shape, generator=self.generator, device=device)
            with arithmetic(device.type, "fp32"):
                self.loss = self.task.loss(self.network, frames, chosen)
                self.optimizer.zero_grad(set_to_none=True)
                self.loss.backward()
            self.optimizer.step()
            self.done += 1

    def where(self) -> str:
        """See `loop.Training.where`."""
        return f"after update {self.done} of {self.probe.num_steps}"

    def progress(self) -> tuple[int, int, str]:
        """See `loop.Training.progress`."""
        return self.done, self.probe.num_steps, "training the state probe"

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Training.state_dict`."""
        if not torch.isfinite(self.loss):
            raise NotFinite(f"the loss of update {self.done} is {float(self.loss)}")
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "seconds": self.seconds,
        }

    def close(self) -> None:
        """See `loop.Training.close`: there is nothing to end."""
