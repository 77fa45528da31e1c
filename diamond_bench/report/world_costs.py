"""What the world model of each variant costs, computed from the configs of its jobs: network calls and FLOP."""

from collections.abc import Callable, Mapping
from typing import Any

from diamond_bench.config import WorldSettings
from diamond_bench.costs import frames_of
from diamond_bench.costs.train_world_model import training_flops
from diamond_bench.costs.world_model import frame_calls, frame_flops
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import CollectDataset, EvaluateWorldModel, ImportDataset, TrainAgent, TrainWorldModel
from diamond_bench.studies.plan import Point, SavedPlan

WorldCosts = Mapping[str, Mapping[str, Mapping[str, float]]]
"""For each variant and each cost, its value in each game. `calls_per_frame`: network calls per imagined frame. `flops_per_frame`: FLOP per
imagined frame. `training_flops`: FLOP of the whole training of the world model, which agents and untrained families lack."""


def world_costs(plan: SavedPlan, kept: Callable[[JobRef], Any]) -> WorldCosts:
    """The costs of all variants. Costs that the configs do not determine are missing. `kept`: reads a job's config, or returns None."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for point in {(point.variant, point.game): point for point in reversed(plan.points)}.values():
        costs = _of_agent(kept(point.jobs["agent"])) if "agent" in point.jobs else _of_world(point, kept)
        for name, value in costs.items():
            found.setdefault(point.variant, {}).setdefault(name, {})[point.game] = value
    return found


def _of_agent(config: Any) -> dict[str, float]:
    if not isinstance(config, TrainAgent) or config.agent.model_free:
        return {}
    world, frames = config.family or config, frames_of(config)
    return {
        "calls_per_frame": float(frame_calls(world, config.sampler, frames)),
        "flops_per_frame": frame_flops(world, config.sampler, frames),
    }


def _of_world(point: Point, kept: Callable[[JobRef], Any]) -> dict[str, float]:
    dataset, evaluation = (kept(point.jobs[role]) if role in point.jobs else None for role in ("dataset", "evaluation"))
    training = kept(point.jobs["world_model"]) if "world_model" in point.jobs else None
    if not isinstance(dataset, CollectDataset | ImportDataset) or not isinstance(evaluation, EvaluateWorldModel) or evaluation.given:
        return {}
    world, frames, costs = evaluation.family or training, frames_of(dataset), dict[str, float]()
    if isinstance(world, WorldSettings | TrainWorldModel | TrainAgent):
        costs["calls_per_frame"] = float(frame_calls(world, evaluation.sampler, frames))
        costs["flops_per_frame"] = frame_flops(world, evaluation.sampler, frames)
    if isinstance(training, TrainWorldModel):
        costs["training_flops"] = training_flops(training, frames)
    return costs
