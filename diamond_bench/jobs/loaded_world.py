"""The world model of an evaluation, loaded and executed as its config asks."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from diamond_bench.agent import DENOISER_FOLDER, load_agent
from diamond_bench.config import EvaluationConfig, world_family
from diamond_bench.data.static import EpisodeSet, load_info
from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.execution import Execution, apply_to_world_model, resolve, supported_by
from diamond_bench.jobs.train_world_model import model_folder
from diamond_bench.models.graphs import Graphed
from diamond_bench.models.precision import Precision
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.models.shape import IMAGE_CHANNELS
from diamond_bench.store.kinds import EvaluateWorldModel
from diamond_bench.studies.agents import AGENT_FOLDER
from diamond_bench.worlds.contract import TrainedWorld, WorldModel
from diamond_bench.worlds.families import load_world_model, open_world
from diamond_bench.worlds.recordings import recorded_episodes


def loaded_world(config: EvaluateWorldModel, context: JobContext, heldout: EpisodeSet, precision: Precision) -> WorldModel:
    """The input `world_model` with its sampler bound, or a world of the config's family if that is not trained. `heldout`: on the CPU.

    Raises UserError if it is not available.
    """
    dataset, device = context.inputs["dataset"], torch.device(context.device)
    spec = load_info(dataset).spec
    family = world_family(config.family)
    if family.trained:
        folder = _folder(context.inputs["world_model"], config.evaluation)
        return load_world_model(folder, spec.frames, precision, device, spec.actions).bound(config.sampler)
    assert config.family is not None
    return open_world(config.family, spec, device, recorded_episodes(dataset, heldout))


def reward_end_model(context: JobContext, precision: Precision) -> RewardEndModel | None:
    """The reward/end model of the agent whose world model is evaluated. None if the input `world_model` is no agent."""
    of_agent = context.inputs["world_model"] / AGENT_FOLDER if "world_model" in context.inputs else None
    if of_agent is None or not of_agent.is_dir():
        return None
    found = load_agent(of_agent, precision, context.device).reward_end
    return None if found is None else found.eval()


def executed_world(
    loaded: WorldModel, config: EvaluateWorldModel, num_windows: int, precision: Precision, device: torch.device
) -> tuple[WorldModel, Execution]:
    """The model with `execution` applied: full batches of the rollouts are compiled and recorded before any of them is timed. `precision`:
    that of the model."""
    if not world_family(config.family).trained:
        return loaded, Execution(precision=precision)
    trained = cast(TrainedWorld, loaded)
    settings = config.evaluation
    frames = settings.num_trajectories * settings.horizon + num_windows
    frames += settings.num_sample_starts * settings.num_samples * settings.sample_horizon
    asked = replace(config.execution, precision=precision)
    execution = supported_by(trained, resolve(asked, device, loaded.flops_per_frame * frames))
    if execution == Execution(precision=precision):
        return loaded, execution
    b = min(settings.batch_size, settings.num_trajectories)
    world = apply_to_world_model(execution, trained, b)
    past = torch.zeros(b, world.context, IMAGE_CHANNELS, *world.spec.frames.sides, device=device)
    taken = world.spec.actions
    actions = torch.zeros(b, world.context, *taken.shape, dtype=getattr(torch, taken.dtype), device=device)
    state = world.start(past, actions, past.new_ones(past.shape[:2], dtype=torch.bool), torch.zeros_like)
    for _ in range(Graphed.WARM_UP + 2):
        world.step(state, actions[:, 0], torch.zeros_like)
    return world, execution


def _folder(producer: Path, settings: EvaluationConfig) -> Path:
    """The folder of the world model in a training's folder, or in that of an agent."""
    of_agent = producer / AGENT_FOLDER
    return of_agent / DENOISER_FOLDER if of_agent.is_dir() else model_folder(producer, settings.milestone, settings.weights)
