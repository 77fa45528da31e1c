"""The job `train_state_probe`: a small network learns to read the state in the game's memory from true frames."""

from typing import Any

import torch
from torch import Tensor

from diamond_bench.costs.train_state_probe import training_flops
from diamond_bench.data.static import load_info, load_split
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.jobs.execution import Execution
from diamond_bench.jobs.probe_tasks import probe_task
from diamond_bench.jobs.probe_training import ProbeTraining, noisy
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.kinds import TrainStateProbe
from diamond_bench.training.loop import Loop


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
    probe = config.probe

    def loss(network: Any, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(episodes.frames), (probe.batch_size,), generator=generator, device=device)
        return task.loss(network, noisy(from_bytes(episodes.frames[chosen]), probe.pixel_noise, generator), chosen)

    loop = Loop(context, probe.checkpoint_every, "try a lower probe.learning_rate")
    training = loop.begin(
        lambda begun: Execution(),
        lambda execution, saved: ProbeTraining(probe, device, task.build, loss, "training the state probe", execution, saved),
    )
    if not loop.run(training):
        raise Interrupted(f"saved {training.where()}")
    network, seconds = training.network.eval(), training.seconds

    context.check_owner()
    rows, measured = task.finish(network, context.folder)
    work = training_flops(config, frames, game)
    return Result(rows, {"game": game, **measured, "work": work, "work_seconds": seconds})
