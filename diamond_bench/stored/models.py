"""World models and agents of the store, loaded by a job's id. Their files are checked against their SHA-256 first."""

from typing import get_args

import torch

from diamond_bench.agent import Agent
from diamond_bench.agent import load_agent as load_agent_folder
from diamond_bench.config import EvaluationConfig, world_family
from diamond_bench.costs import frames_of
from diamond_bench.data.static import load_info
from diamond_bench.envs import games
from diamond_bench.errors import UserError, nearest
from diamond_bench.jobs.train_world_model import model_folder
from diamond_bench.models.precision import Precision
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import ImportWorldModel
from diamond_bench.studies.agents import AGENT_FOLDER, AGENT_KINDS
from diamond_bench.worlds.contract import TrainedWorld
from diamond_bench.worlds.families import load_world_model as load_world_model_folder
from diamond_bench.worlds.files import described_world


def check_placement(device: str, precision: str) -> None:
    """Raises UserError for a device that torch cannot use here, and for an unknown precision."""
    if precision not in (known := get_args(Precision)):
        raise UserError(f"precision={precision!r}: {nearest(str(precision), known)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(f"device={device!r}: torch cannot use it: {str(error).splitlines()[0]}; use cpu, cuda or cuda:N") from None


def load_world_model(store: Store, ref: JobRef, milestone: float | None, device: str, precision: Precision) -> TrainedWorld:
    """As `api.load_world_model`."""
    check_placement(device, precision)
    training, own = training_behind(store, ref)
    share = own.milestone if milestone is None else milestone
    if training.kind in AGENT_KINDS:
        if milestone not in (None, 1.0):
            raise UserError(f"milestone={milestone}: {training} kept 1.0 alone")
        return world_model_in(load_agent(store, training, device, precision), training)
    require_whole(store, training)
    spec, kept = store.spec(training), milestones_of(store, training)
    if share not in kept:
        raise UserError(f"milestone={share}: {training} kept {', '.join(map(str, kept))}")
    frames, actions = (
        (FrameSpec(spec.config.height, spec.config.width), None)
        if isinstance(spec.config, ImportWorldModel)
        else _frames_and_actions(store, spec.inputs["dataset"])
    )
    return load_world_model_folder(model_folder(store.folder(training), share, own.weights), frames, precision, device, actions)


def milestones_of(store: Store, training: JobRef) -> tuple[float, ...]:
    """The milestones whose models a training of a world model kept. An import has one model."""
    config = store.spec(training).config
    return (1.0,) if isinstance(config, ImportWorldModel) else config.training.milestones


def load_agent(store: Store, ref: JobRef, device: str, precision: Precision) -> Agent:
    """As `api.load_agent`."""
    check_placement(device, precision)
    if ref.kind == "evaluate_agent":
        ref = store.spec(ref).inputs["agent"]
    if ref.kind not in AGENT_KINDS:
        raise UserError(f"{ref}: has no agent; name a job of {', '.join((*AGENT_KINDS, 'evaluate_agent'))}")
    require_whole(store, ref)
    return load_agent_folder(store.folder(ref) / AGENT_FOLDER, precision, device)


def world_model_in(agent: Agent, ref: JobRef) -> TrainedWorld:
    """The world model of an agent. Raises UserError where it learned without one. `ref`: the job that made it, for the message."""
    if agent.world_model is None:
        raise UserError(f"{ref}: learned without a world model (agent.model_free), so it has none")
    return agent.world_model


def training_behind(store: Store, ref: JobRef) -> tuple[JobRef, EvaluationConfig]:
    """The training (of a world model or an agent) behind a job, and how an evaluation chooses among its models (milestone, weights).

    Raises UserError for a job that has no world model.
    """
    if ref.kind in ("train_world_model", "import_world_model") or ref.kind in AGENT_KINDS:
        return ref, EvaluationConfig()
    spec = store.spec(ref)
    if ref.kind == "evaluate_agent":
        return spec.inputs["agent"], EvaluationConfig()
    if ref.kind != "evaluate_world_model":
        raise UserError(f"{ref}: has no world model; name a training of one, an agent, or an evaluation of either")
    if spec.config.given is not None:
        raise UserError(f"{ref}: measures frames that were given, and has no world model")
    if not world_family(spec.config.family).trained:
        raise UserError(f"{ref}: evaluates the family {spec.config.family.name}, which is not trained: it has no model to load")
    return spec.inputs["world_model"], spec.config.evaluation


def spec_behind(store: Store, ref: JobRef | None) -> WorldSpec:
    """Frames and actions of the world model behind a job. Raises UserError for a job without a dataset that is no imported world model."""
    kind = None if ref is None else ref.kind
    if ref is None or kind not in ("train_world_model", "evaluate_world_model", "import_world_model"):
        raise UserError(f"{ref or 'this family'}: expected a training, an evaluation or an import of a world model")
    if kind == "import_world_model":
        require_whole(store, ref)
        return described_world(model_folder(store.folder(ref), 1.0))[1]
    return load_info(store.folder(store.spec(ref).inputs["dataset"])).spec


def require_whole(store: Store, ref: JobRef) -> None:
    """Raises UserError where a job is not done, or its files are damaged."""
    store.result(ref)
    damage = store.damage(ref, contents=True)
    if damage:
        raise UserError(f"{damage}; the next sweep repeats it")


def _frames_and_actions(store: Store, dataset: JobRef) -> tuple[FrameSpec, ActionSpec | None]:
    """Frames and actions of a dataset; None for actions that are Discrete."""
    config = store.spec(dataset).config
    if dataset.kind == "import_dataset":
        return frames_of(config), load_info(store.folder(dataset)).spec.actions
    return frames_of(config), None if games.family_of(config.game).action_kind == "Discrete" else games.actions(config.game)
