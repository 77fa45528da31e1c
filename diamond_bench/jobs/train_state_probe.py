"""The job `train_state_probe`: a small network learns to read the state in the console's memory from true frames."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from diamond_bench.config.probe import ProbeConfig
from diamond_bench.costs.train_state_probe import training_flops
from diamond_bench.data.ram import load_ram
from diamond_bench.data.static import EpisodeSet, load_info, load_split
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.envs.games import object_names, read_states
from diamond_bench.envs.ram_state import States
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.jobs.execution import Execution
from diamond_bench.metrics.state_meter import ProbeDescription, probe_rows, read_frames, save_probe
from diamond_bench.models.precision import arithmetic
from diamond_bench.models.state_probe import StateProbe, probe_loss, probe_targets
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
    objects = object_names(game)
    episodes, states = load_split(dataset, "train").to(device), read_states(game, load_ram(dataset, "train"))
    loop = Loop(context, config.probe.checkpoint_every, "try a lower probe.learning_rate")
    training = loop.begin(lambda begun: Execution(), lambda execution, saved: _Training(config.probe, episodes, states, execution, saved))
    if not loop.run(training):
        raise Interrupted(f"saved {training.where()}")
    network, seconds = training.network.eval(), training.seconds

    context.check_owner()
    save_probe(network, ProbeDescription(game, objects, config.probe.channels), context.folder)
    heldout, truth = load_split(dataset, "heldout"), read_states(game, load_ram(dataset, "heldout"))
    height, width = heldout.frames.shape[-2:]
    positions = truth.positions.astype(np.float64) * (width, height)
    places, seen = read_frames(network, heldout.frames.to(device))
    of_object = {name: probe_rows(places[:, [k]], seen[:, [k]], positions[:, [k]], truth.present[:, [k]]) for k, name in enumerate(objects)}
    facts = {
        "game": game,
        "heldout_frames": len(heldout.frames),
        "of_objects": {name: {row.metric: row.value for row in rows} for name, rows in of_object.items()},
        "work": training_flops(config, FrameSpec(height, width), len(objects)),
        "work_seconds": seconds,
    }
    return Result(probe_rows(places, seen, positions, truth.present), facts)


class _Training:
    """Updates of a probe. One generator, seeded by the probe's seed, feeds all draws except those of the initial weights."""

    def __init__(self, probe: ProbeConfig, episodes: EpisodeSet, states: States, execution: Execution, saved: Saved | None) -> None:
        self.probe, self.frames, self.execution = probe, episodes.frames, execution
        device = self.frames.device
        self.positions, self.present = (torch.from_numpy(values).to(device) for values in (states.positions, states.present))
        torch.manual_seed(probe.seed)  # for the initial weights; a worker runs one job at a time
        self.network = StateProbe(self.present.shape[1], probe.channels).to(device)
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
        probe, device, shape = self.probe, self.frames.device, (self.frames.shape[-2], self.frames.shape[-1])
        while self.done < probe.num_steps:
            yield False
            set_learning_rate(self.optimizer, probe, self.done)
            chosen = torch.randint(len(self.frames), (probe.batch_size,), generator=self.generator, device=device)
            frames = from_bytes(self.frames[chosen])
            if probe.pixel_noise:
                level = torch.rand((len(frames), 1, 1, 1), generator=self.generator, device=device) * probe.pixel_noise
                frames = frames + level * torch.randn(frames.shape, generator=self.generator, device=device)
            with arithmetic(device.type, "fp32"):
                targets = probe_targets(self.positions[chosen], self.present[chosen], shape)
                self.loss = probe_loss(self.network(frames), targets, shape)
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
