"""The job `train_world_model`: a world model trained on the segments of a static dataset, resumable bit for bit."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diamond_bench.costs.train_world_model import training_flops
from diamond_bench.data.segments import Segments, sample_segments, tensors_of
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.jobs.execution import apply, compile_rows, facts_of, made_on, resolve
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.training.checkpoint import CheckpointWriter, load_checkpoint, set_aside_checkpoints
from diamond_bench.training.learner import Learner
from diamond_bench.training.log import NotFinite, TrainingLog
from diamond_bench.worlds.contract import TrainedWorld
from diamond_bench.worlds.families import build_world_model

_LOGGED = ("loss", "grad_norm")
_RECENT = 100
"""Updates whose losses train_loss averages."""


def model_folder(training: Path, milestone: float) -> Path:
    """Where a training keeps the model of a milestone (a fraction of its updates)."""
    return training / "models" / f"{milestone:g}"


@dataclass
class _Run:
    """What changes from update to update; all of it is in a checkpoint."""

    learner: Learner
    generator: torch.Generator
    pending: torch.Tensor
    """Logged scalars that are in no line of metrics.jsonl yet."""
    recent: torch.Tensor
    """The last losses, that of update i at i % len: what train_loss is the mean of, however often lines are logged."""
    compile: str
    seconds: float = 0.0

    @property
    def step(self) -> int:
        return self.learner.updates

    def state(self) -> dict[str, Any]:
        learned = self.learner.state_dict()
        return {
            "device": self.recent.device.type,
            "compile": self.compile,
            "pending": self.pending,
            "recent": self.recent,
            "denoiser": learned["network"],
            "optimizer": learned["optimizer"],
            "generator": self.generator.get_state(),
            "seconds": self.seconds,
        }

    def restore(self, step: int, state: dict[str, Any]) -> None:
        self.learner.load_state_dict({"network": state["denoiser"], "optimizer": state["optimizer"], "updates": step})
        self.generator.set_state(state["generator"])
        self.pending = state["pending"].to(self.pending.device)
        self.recent.copy_(state["recent"])
        self.seconds = state["seconds"]


def run(config: TrainWorldModel, context: JobContext) -> Result:
    """Trains for `training.num_steps` updates and keeps a model at each milestone (models/0.25/, ...).

    Random numbers come from one generator, seeded by the run's seed and stored in every checkpoint, and the weights' own start.
    Raises Interrupted with a checkpoint saved; NotFinite where the loss stops being a number (the last checkpoint stays).
    """
    training, device = config.training, torch.device(context.device)
    dataset = load_info(context.inputs["dataset"])
    episodes = load_split(context.inputs["dataset"], "train").to(device)
    frames = FrameSpec(*episodes.frames.shape[-2:])
    torch.manual_seed(config.seed)  # the weights' start; one job at a time runs in a worker
    model = build_world_model(
        config.objective,
        config.conditioning,
        config.network,
        dataset.num_actions,
        frames,
        config.execution.precision,
        device,
    )
    (trainable,) = model.trainables(training)
    found = load_checkpoint(context.folder / "checkpoint", context.say)
    begun = None if found is None else found[1].get("compile", "none")
    work = training_flops(config, frames)
    execution = resolve(config.execution, device, work, begun)
    apply(execution, {trainable.network: {training.batch_size}} if execution.compile == "all" else {})
    generator = torch.Generator(device).manual_seed(config.seed)
    pending, recent = torch.zeros(0, len(_LOGGED), device=device), torch.zeros(min(_RECENT, training.num_steps), device=device)
    learner = Learner(trainable.network, training, execution.fused, execution.records_updates)
    state = _Run(learner, generator, pending, recent, execution.compile)
    if found is not None:
        _resume(state, *found, context)

    def loss_of(*batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, _ = trainable.loss(Segments(*batch), generator)
        return loss, {"loss": loss.detach()}

    due = {training.milestone_step(m) for m in training.milestones}
    checkpoints = CheckpointWriter(context.folder / "checkpoint", context.check_owner, saved=Interrupted)
    log = TrainingLog(context.folder, _LOGGED, training.log_every, state.step, state.pending)
    started = time.perf_counter() - state.seconds
    try:
        with checkpoints:
            while state.step < training.num_steps:
                segments = sample_segments(episodes, training.batch_size, trainable.segment_length, generator)
                told = learner.learn(loss_of, tensors_of(segments), [generator])
                recent[(state.step - 1) % len(recent)] = told["loss"]
                log.add(told["loss"], told["grad_norm"])
                last = f"loss {log.last['loss']:.4f}" if log.last else f"learning rate {learner.rate:.1e}"
                context.progress(state.step, training.num_steps, last)
                stopping = context.should_stop() and state.step < training.num_steps
                if stopping or state.step in due or state.step % training.checkpoint_every == 0:
                    state.pending = log.pending()  # refuses to save a state that is not finite
                    state.seconds = time.perf_counter() - started
                    context.check_owner()
                    for milestone in training.milestones:
                        if training.milestone_step(milestone) == state.step:
                            _keep(model, model_folder(context.folder, milestone))
                    checkpoints.save(state.step, state.state())
                if stopping:
                    raise Interrupted(f"saved after update {state.step} of {training.num_steps}")
            log.write()
    except NotFinite as error:
        newest = max((p.name for p in (context.folder / "checkpoint").glob("step-*.pt")), default="none was due yet")
        raise UserError(f"training stopped at {error}; last good checkpoint: {newest}; try a lower training.learning_rate") from error
    finally:
        log.close()
    rows = [
        Row("train_loss", float(recent.double().mean())),
        Row("training_seconds", state.seconds, measured=True),
        Row("updates_per_second", training.num_steps / state.seconds, measured=True),
    ]
    facts = {"updates": state.step, "train_frames": dataset.num_train_frames, "execution": facts_of(execution)}
    rows += compile_rows([trainable.network])
    return Result(rows, {**facts, "work": work, "work_seconds": state.seconds})


def _resume(state: _Run, step: int, saved: dict[str, Any], context: JobContext) -> None:
    """Goes on from a checkpoint, or sets it aside: another device draws other numbers, and other code rounds otherwise."""
    theirs, ours = made_on(saved["device"], saved.get("compile", "none")), made_on(state.recent.device.type, state.compile)
    if theirs != ours:
        context.say(f"the checkpoint after update {step} was made on {theirs}; begun anew on {ours}")
        set_aside_checkpoints(context.folder / "checkpoint")
        return
    state.restore(step, saved)
    context.say(f"resumed after update {step}")


def _keep(model: TrainedWorld, folder: Path) -> None:
    """Publishes a milestone's model under its final name only when it is whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
