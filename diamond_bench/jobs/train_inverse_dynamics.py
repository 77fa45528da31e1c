"""The job `train_inverse_dynamics`: a network learns to read the action from two consecutive real frames."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diamond_bench.config import InverseDynamicsConfig
from diamond_bench.costs.train_inverse_dynamics import training_flops
from diamond_bench.data.static import EpisodeSet, load_info, load_split
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.envs.games import family_of
from diamond_bench.jobs.action_effects import Effects, action_effects
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.jobs.execution import Execution
from diamond_bench.jobs.probe_training import ProbeTraining, noisy
from diamond_bench.metrics.action_reader import ActionReader, accuracy_rows, save_reader
from diamond_bench.metrics.baselines import REAL_HELDOUT, REAL_IMPOSED
from diamond_bench.models.inverse_dynamics import ActionCode, InverseDynamics
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import CollectDataset, TrainInverseDynamics
from diamond_bench.store.rows import Row
from diamond_bench.training.loop import Loop


def run(config: TrainInverseDynamics, context: JobContext) -> Result:
    """Trains for `inverse_dynamics.num_steps` updates, measures the network on real frames, and writes inverse_dynamics/.

    Raises Interrupted with a checkpoint saved, and UserError if the loss is not finite.
    """
    settings, dataset, device = config.inverse_dynamics, context.inputs["dataset"], torch.device(context.device)
    spec = load_info(dataset).spec
    effects = _effects(dataset, spec.actions, settings.seed)
    code = ActionCode(spec.actions, () if spec.actions.trailing else _classes(spec.actions, effects))
    batch = _batches(load_split(dataset, "train").to(device), code, settings)

    def loss(network: Any, generator: torch.Generator) -> Tensor:
        before, after, values = batch(generator)
        outputs = network(before, after)
        return code.loss(outputs[0], values) + code.loss(outputs[1], values)

    loop = Loop(context, settings.checkpoint_every, "try a lower inverse_dynamics.learning_rate")
    training = loop.begin(
        lambda begun: Execution(),
        lambda execution, saved: ProbeTraining(
            settings,
            device,
            lambda: InverseDynamics(settings.channels, spec.frames, code.width),
            loss,
            "training the inverse-dynamics network",
            execution,
            saved,
        ),
    )
    if not loop.run(training):
        raise Interrupted(f"saved {training.where()}")
    network, seconds = training.network.eval(), training.seconds
    assert isinstance(network, InverseDynamics)

    context.check_owner()
    reader = ActionReader(network, code)
    save_reader(reader, settings.channels, spec.frames, context.folder)
    facts = {} if spec.actions.trailing else {"classes": list(code.class_names)}
    rows = _ceiling(reader, effects, load_split(dataset, "heldout").to(device), device)
    return Result(rows, {**facts, "work": training_flops(config, spec.frames), "work_seconds": seconds})


def _effects(dataset: Path, spec: ActionSpec, seed: int) -> Effects | None:
    """The effects of actions in the dataset's game. None if the dataset was imported, or the game cannot save its state."""
    source = Store(dataset.parent.parent).spec(JobRef(dataset.parent.name, dataset.name)).config
    if not isinstance(source, CollectDataset) or not family_of(source.game).saves:
        return None
    return action_effects(source.game, source.env, spec, seed)


def _classes(spec: ActionSpec, effects: Effects | None) -> tuple[int, ...]:
    return tuple(range(spec.sizes[0])) if effects is None else effects.classes()


def _batches(
    episodes: EpisodeSet, code: ActionCode, settings: InverseDynamicsConfig
) -> Callable[[torch.Generator], tuple[Tensor, Tensor, Tensor]]:
    """Draws batches: frames before and after actions, (n, 3, h, w) with blur and noise, and the actions' values (n, k).

    Each class of Discrete actions is drawn equally often, because imposed actions do not depend on the policy of the dataset.
    """
    frames, device = episodes.frames, episodes.frames.device
    last = torch.zeros(len(frames), dtype=torch.bool, device=device)
    last[episodes.starts + episodes.lengths - 1] = True
    rows = torch.nonzero(~last).flatten()
    values = code.values(episodes.actions[rows])
    groups = [rows] if code.spec.trailing else [group for i in range(code.width) if len(group := rows[values[:, 0] == i])]
    by_group, sizes = torch.cat(groups), torch.tensor([len(group) for group in groups], device=device)
    starts = sizes.cumsum(0) - sizes

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        shares = torch.rand((2, settings.batch_size), generator=generator, device=device, dtype=torch.float64)
        numbers = (shares[0] * len(groups)).long()
        chosen = by_group[starts[numbers] + (shares[1] * sizes[numbers]).long()]
        before, after = (
            noisy(_blurred(from_bytes(frames[chosen + i]), settings.blur, generator), settings.pixel_noise, generator) for i in (0, 1)
        )
        return before, after, code.values(episodes.actions[chosen])

    return draw


def _blurred(frames: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Frames (n, 3, h, w) with Gaussian blur, whose standard deviation in pixels is drawn for each frame from 0 to `most`."""
    if not most:
        return frames
    sigma = most * torch.rand((len(frames), 1), generator=generator, device=frames.device).clamp(min=0.01)
    reach = int(np.ceil(2.5 * most))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=frames.device) / sigma) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)  # (n, taps)
    for pad, axis in (((0, 0, reach, reach), 2), ((reach, reach, 0, 0), 3)):
        padded, size = F.pad(frames, pad, mode="replicate"), frames.shape[axis]
        shifted = [padded.narrow(axis, i, size) * weights[:, i, None, None, None] for i in range(2 * reach + 1)]
        frames = torch.stack(shifted).sum(dim=0)
    return frames


def _ceiling(reader: ActionReader, effects: Effects | None, heldout: EpisodeSet, device: torch.device) -> list[Row]:
    """The network on real frames: after imposed actions where the game can save its state, else on held-out play."""
    if effects is not None:
        after = torch.from_numpy(effects.after).to(device)
        before = torch.from_numpy(effects.before).to(device)[:, None].expand_as(after)
        imposed = reader.values(torch.from_numpy(effects.actions).to(device))
        return accuracy_rows(reader.code, imposed, *reader.read(before, after), baseline=REAL_IMPOSED)
    last = torch.zeros(len(heldout.frames), dtype=torch.bool, device=device)
    last[heldout.starts + heldout.lengths - 1] = True
    rows = torch.nonzero(~last).flatten()
    read = reader.read(heldout.frames[rows], heldout.frames[rows + 1])
    return accuracy_rows(reader.code, reader.values(heldout.actions[rows]), *read, baseline=REAL_HELDOUT)
