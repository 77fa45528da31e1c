"""The training of a small network that reads frames: a state probe, or an inverse-dynamics network."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from diamond_bench.config.probe import ProbeConfig
from diamond_bench.jobs.execution import Execution
from diamond_bench.models.precision import arithmetic
from diamond_bench.training.log import NotFinite
from diamond_bench.training.loop import Saved
from diamond_bench.training.optimizer import make_optimizer, set_learning_rate


class ProbeTraining:
    """Updates of one network. One generator, seeded by the probe's seed, feeds all draws except those of the initial weights."""

    def __init__(
        self,
        probe: ProbeConfig,
        device: torch.device,
        build: Callable[[], nn.Module],
        loss: Callable[[Any, torch.Generator], Tensor],
        text: str,
        execution: Execution,
        saved: Saved | None,
    ) -> None:
        """`build`: the network with fresh weights, on the CPU. `loss(network, generator)`: a scalar, of a batch that it draws. `text`: the
        words of its progress."""
        self.probe, self._device, self._loss_of, self._text, self.execution = probe, device, loss, text, execution
        torch.manual_seed(probe.seed)  # for the initial weights; a worker runs one job at a time
        self.network = build().to(device)
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
        """The updates."""
        while self.done < self.probe.num_steps:
            yield False
            set_learning_rate(self.optimizer, self.probe, self.done)
            with arithmetic(self._device.type, "fp32"):
                self.loss = self._loss_of(self.network, self.generator)
                self.optimizer.zero_grad(set_to_none=True)
                self.loss.backward()
            self.optimizer.step()
            self.done += 1

    def where(self) -> str:
        """See `loop.Training.where`."""
        return f"after update {self.done} of {self.probe.num_steps}"

    def progress(self) -> tuple[int, int, str]:
        """See `loop.Training.progress`."""
        return self.done, self.probe.num_steps, self._text

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


def noisy(frames: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Frames (n, 3, h, w) with noise, whose standard deviation is drawn for each frame from 0 to `most`. 0 draws nothing."""
    if not most:
        return frames
    level = torch.rand((len(frames), 1, 1, 1), generator=generator, device=frames.device) * most
    return frames + level * torch.randn(frames.shape, generator=generator, device=frames.device)
