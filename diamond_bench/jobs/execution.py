"""The execution of a job's arithmetic: resolves `execution` for the available device, and applies it to the job's networks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from diamond_bench.agent import Agent
from diamond_bench.config import ExecutionConfig
from diamond_bench.costs.train_agent import agent_work
from diamond_bench.diffusion.side_by_side import group_sizes
from diamond_bench.jobs.context import Row
from diamond_bench.jobs.precision import resolved_precision
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.precision import Precision
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.execution import COMPILE_PAYS_OFF_FLOPS, check_execution, has_compiler
from diamond_bench.training.loop import Begun
from diamond_bench.worlds.contract import TrainedWorld, WorldModel
from diamond_bench.worlds.recorded import recorded

Extent = Literal["none", "imagination", "all"]


@dataclass(frozen=True)
class Execution:
    """An execution in which nothing is left to decide."""

    compile: Extent = "none"
    cuda_graphs: Extent = "none"
    sampling_streams: int = 1
    """Groups of games whose frames are sampled at once."""
    fused: bool = True
    """Whether the optimiser uses few, fused kernels."""
    encode_past: Literal["every_call", "once"] = "every_call"
    """How often the encoder of past frames runs while a frame is sampled."""
    precision: Precision = "fp32"

    @property
    def records_updates(self) -> bool:
        """Whether updates run through CUDA graphs."""
        return self.cuda_graphs == "all"

    def sampled_sizes(self, num_games: int) -> set[int]:
        """The world model's batch sizes for sampling the frames of `num_games` games."""
        return set(group_sizes(num_games, self.sampling_streams))


def resolve(asked: ExecutionConfig, device: torch.device, work: float, begun: Begun | None = None) -> Execution:
    """Resolves `execution` for a job of `work` FLOP on a device. `begun`: the execution of the job's first attempt. `compile=auto` keeps it
    if possible, and `precision=auto` always.

    Auto compiles if a compiler is found. Raises UserError if the request is impossible (`check_execution`, `resolved_precision`).
    """
    check_execution(asked, device.type)
    precision = resolved_precision(asked.precision, device, None if begun is None else begun.precision)
    compile: Extent
    if asked.compile == "auto":
        wanted = begun.compile != "none" if begun is not None else work >= COMPILE_PAYS_OFF_FLOPS[device.type]
        compile = "all" if wanted and has_compiler(device.type) else "none"
    else:
        compile = asked.compile
    return Execution(compile, asked.cuda_graphs, asked.sampling_streams, encode_past=asked.encode_past, precision=precision)


def resolve_for(config: TrainAgent, device: torch.device, begun: Begun | None = None) -> Execution:
    """`resolve` for the training of an agent. Without a world model to train, nothing is compiled or recorded."""
    if not config.trains_world_model:
        return Execution(precision=resolved_precision(config.execution.precision, device, None if begun is None else begun.precision))
    return resolve(config.execution, device, agent_work(config), begun)


def supported_by(world: TrainedWorld, execution: Execution) -> Execution:
    """The part of an execution that a world model supports: if no network can be compiled, none is."""
    return execution if world.compilable else replace(execution, compile="none")


def apply(execution: Execution, networks: Mapping[Compilable, Iterable[int]]) -> None:
    """Compiles networks for their batch sizes and lets them encode past frames once, if the execution asks for it."""
    for network, sizes in networks.items():
        network.encodes_past_once = execution.encode_past == "once"
        if execution.compile != "none":
            network.compile_core(sizes, with_gradient=execution.compile == "all")


def apply_to_world_model(execution: Execution, world: TrainedWorld, num_games: int) -> WorldModel:
    """The same world model with this execution, for the imagination of `num_games` games."""
    apply(execution, dict.fromkeys(world.compilable, execution.sampled_sizes(num_games)))
    world = world.in_streams(execution.sampling_streams)
    return world if execution.cuda_graphs == "none" else recorded(world)


def apply_to_agent(execution: Execution, agent: Agent, config: TrainAgent) -> Agent:
    """The same agent, with its networks compiled for the batches of its training. CUDA graphs cover whole steps and updates
    (`Learners`)."""
    imagined, settings = config.actor_critic.batch_size, config.reward_end
    context = config.conditioning.num_frames if agent.world_model is None else agent.world_model.context
    burnt_in = imagined * (max(context, config.actor_critic.start_frames) - 1)
    apply(execution, {agent.actor_critic: {imagined, burnt_in} - {0}})
    if agent.reward_end is not None:
        apply(execution, {agent.reward_end: {imagined, settings.batch_size * (settings.segment_length - 1)}})
    if agent.world_model is None:
        return agent
    sizes = execution.sampled_sizes(imagined) | {config.training.batch_size}
    apply(execution, dict.fromkeys(agent.world_model.compilable, sizes))
    return replace(agent, world_model=agent.world_model.in_streams(execution.sampling_streams))


def facts_of(execution: Execution) -> dict[str, str]:
    """The facts about the execution for a result."""
    streams = {"sampling_streams": str(execution.sampling_streams)} if execution.sampling_streams > 1 else {}
    once = {"encode_past": "once"} if execution.encode_past == "once" else {}
    return {"precision": execution.precision, "compile": execution.compile, "cuda_graphs": execution.cuda_graphs, **streams, **once}


def compile_rows(networks: Iterable[Compilable]) -> list[Row]:
    """The seconds of the first calls of compiled networks. No row if nothing was compiled."""
    compiled = [network.compiled for network in networks if network.compiled is not None]
    return [Row("compile_seconds", sum(c.seconds for c in compiled), measured=True)] if compiled else []
