"""The job `train_state_probe`: a small network learns to read, from true frames, what the console's memory says."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diamond_bench.costs.train_state_probe import training_flops
from diamond_bench.data.ram import load_ram
from diamond_bench.data.static import EpisodeSet, load_info, load_split
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.envs.games import object_names, read_states
from diamond_bench.envs.ram_state import States
from diamond_bench.errors import UserError
from diamond_bench.evaluation.state import ProbeDescription, probe_rows, read_frames, save_probe
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.models.precision import arithmetic
from diamond_bench.models.state_probe import StateProbe, probe_loss, probe_targets
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.kinds import TrainStateProbe
from diamond_bench.training.checkpoint import load_checkpoint, save_checkpoint, set_aside_checkpoints
from diamond_bench.training.optimizer import make_optimizer, set_learning_rate


def run(config: TrainStateProbe, context: JobContext) -> Result:
    """Trains for `probe.num_steps` updates, measures the probe on the held-out split, and leaves probe/.

    Raises Interrupted with a checkpoint saved; UserError for a dataset without game or memory, or where the loss stops being a number.
    """
    dataset, device = context.inputs["dataset"], torch.device(context.device)
    game = load_info(dataset).content.get("game")
    if game is None:
        raise UserError(f"{dataset}: the dataset does not say which game it is of; leave state out of metrics")
    objects = object_names(game)
    state = _train(config, context, load_split(dataset, "train").to(device), read_states(game, load_ram(dataset, "train")))

    context.check_owner()
    save_probe(state.network, ProbeDescription(game, objects, config.probe.channels), context.folder)
    heldout, truth = load_split(dataset, "heldout"), read_states(game, load_ram(dataset, "heldout"))
    height, width = heldout.frames.shape[-2:]
    positions = truth.positions.astype(np.float64) * (width, height)
    places, seen = read_frames(state.network.eval(), heldout.frames.to(device))
    of_object = {name: probe_rows(places[:, [k]], seen[:, [k]], positions[:, [k]], truth.present[:, [k]]) for k, name in enumerate(objects)}
    facts = {
        "game": game,
        "heldout_frames": len(heldout.frames),
        "of_objects": {name: {row.metric: row.value for row in rows} for name, rows in of_object.items()},
        "work": training_flops(config, FrameSpec(height, width), len(objects)),
        "work_seconds": state.seconds,
    }
    return Result(probe_rows(places, seen, positions, truth.present), facts)


@dataclass
class _Run:
    """What changes from update to update; all of it is in a checkpoint."""

    network: StateProbe
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0

    def save(self, context: JobContext) -> None:
        content: dict[str, Any] = {
            "device": torch.device(context.device).type,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "seconds": self.seconds,
        }
        save_checkpoint(context.folder / "checkpoint", self.step, content)

    def resume(self, context: JobContext) -> None:
        found = load_checkpoint(context.folder / "checkpoint", context.say)
        if found is None:
            return
        step, saved = found
        if saved["device"] != torch.device(context.device).type:  # another device draws other numbers
            context.say(f"the checkpoint after update {step} was made on {saved['device']}; begun anew on {context.device}")
            set_aside_checkpoints(context.folder / "checkpoint")
            return
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        self.step, self.seconds = step, saved["seconds"]
        context.say(f"resumed after update {step}")


def _train(config: TrainStateProbe, context: JobContext, episodes: EpisodeSet, states: States) -> _Run:
    """The probe after the last update. Frames and noise come from one generator, kept in every checkpoint."""
    probe, device = config.probe, episodes.frames.device
    shape = (episodes.frames.shape[-2], episodes.frames.shape[-1])
    positions, present = (torch.from_numpy(values).to(device) for values in (states.positions, states.present))
    torch.manual_seed(probe.seed)  # the weights' start; one job at a time runs in a worker
    network = StateProbe(present.shape[1], probe.channels).to(device)
    state = _Run(network, make_optimizer(network, probe), torch.Generator(device).manual_seed(probe.seed))
    state.resume(context)
    started = time.perf_counter() - state.seconds
    loss = torch.zeros((), device=device)
    while state.step < probe.num_steps:
        set_learning_rate(state.optimizer, probe, state.step)
        chosen = torch.randint(len(episodes.frames), (probe.batch_size,), generator=state.generator, device=device)
        frames = from_bytes(episodes.frames[chosen])
        if probe.pixel_noise:
            level = torch.rand((len(frames), 1, 1, 1), generator=state.generator, device=device) * probe.pixel_noise
            frames = frames + level * torch.randn(frames.shape, generator=state.generator, device=device)
        with arithmetic(device.type, "fp32"):
            loss = probe_loss(network(frames), probe_targets(positions[chosen], present[chosen], shape), shape)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        state.optimizer.step()
        state.step += 1
        context.progress(state.step, probe.num_steps, "training the state probe")
        stopping = context.should_stop() and state.step < probe.num_steps
        if stopping or state.step % probe.checkpoint_every == 0 or state.step == probe.num_steps:
            if not torch.isfinite(loss):
                raise UserError(
                    f"training of the state probe: the loss of update {state.step} is {float(loss)}; try a lower probe.learning_rate"
                )
            state.seconds = time.perf_counter() - started
            context.check_owner()
            state.save(context)
        if stopping:
            raise Interrupted(f"saved after update {state.step} of {probe.num_steps}")
    return state
