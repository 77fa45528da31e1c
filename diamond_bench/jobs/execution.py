"""How a job's arithmetic is done: what `execution` asks for, on the device at hand, applied to the job's networks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from diamond_bench.agent import Agent
from diamond_bench.config import ExecutionConfig
from diamond_bench.costs.train_agent import agent_work
from diamond_bench.diffusion.side_by_side import group_sizes
from diamond_bench.jobs.context import Row
from diamond_bench.models.compilation import Compilable
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.execution import check_execution, has_compiler
from diamond_bench.worlds.contract import TrainedWorld, WorldModel
from diamond_bench.worlds.recorded import recorded

Extent = Literal["none", "imagination", "all"]

COMPILE_PAYS_OFF_FLOPS = {"cuda": 3e16, "cpu": 5e13}
"""FLOP of a job from which on compiling pays back: what a device does in the 20 minutes or so against which a compilation of one to
three minutes is little (docs/performance.md)."""


@dataclass(frozen=True)
class Execution:
    """What is done, nothing left to be decided."""

    compile: Extent = "none"
    cuda_graphs: Extent = "none"
    sampling_streams: int = 1
    """Groups of games whose frames are sampled at once."""
    fused: bool = True
    """The optimiser in few kernels."""

    @property
    def records_updates(self) -> bool:
        """Whether updates go through CUDA graphs."""
        return self.cuda_graphs == "all"

    def sampled_sizes(self, num_games: int) -> set[int]:
        """The world model's batch sizes when frames of so many games are sampled."""
        return set(group_sizes(num_games, self.sampling_streams))


def resolve(asked: ExecutionConfig, device: torch.device, work: float, begun: str | None = None) -> Execution:
    """What `execution` comes to for a job of `work` FLOP on a device; `begun`: what `compile` came to when the job began, in an earlier
    attempt, which auto keeps to where it can.

    Auto compiles where a compiler is found. Raises UserError where what is asked cannot be had (`check_execution`).
    """
    check_execution(asked, device.type)
    if asked.compile != "auto":
        return Execution(asked.compile, asked.cuda_graphs, asked.sampling_streams)
    wanted = begun != "none" if begun is not None else work >= COMPILE_PAYS_OFF_FLOPS[device.type]
    return Execution("all" if wanted and has_compiler(device.type) else "none", asked.cuda_graphs, asked.sampling_streams)


def resolve_for(config: TrainAgent, device: torch.device, begun: str | None = None) -> Execution:
    """`resolve` for the training of an agent; one that learns no world model compiles and records nothing."""
    if config.agent.model_free or config.family is not None:
        return Execution()
    return resolve(config.execution, device, agent_work(config), begun)


def supported_by(world: TrainedWorld, execution: Execution) -> Execution:
    """What of it can be done with a world model: where no network can be compiled, none is."""
    return execution if world.compilable else replace(execution, compile="none")


def apply(execution: Execution, networks: Mapping[Compilable, Iterable[int]]) -> None:
    """Compiles networks for the batch sizes that they will see, where the execution says so."""
    if execution.compile != "none":
        for network, sizes in networks.items():
            network.compile_core(sizes, with_gradient=execution.compile == "all")


def apply_to_world_model(execution: Execution, world: TrainedWorld, num_games: int) -> WorldModel:
    """The same world model, executed so, for the imagination of so many games."""
    apply(execution, dict.fromkeys(world.compilable, execution.sampled_sizes(num_games)))
    world = world.in_streams(execution.sampling_streams)
    return world if execution.cuda_graphs == "none" else recorded(world)


def apply_to_agent(execution: Execution, agent: Agent, config: TrainAgent) -> Agent:
    """The same agent, its networks compiled for the batches of its training; CUDA graphs are of whole steps and updates (`Learners`)."""
    imagined, settings = config.actor_critic.batch_size, config.reward_end
    burnt_in = imagined * (max(config.conditioning.num_frames, config.actor_critic.start_frames) - 1)
    apply(execution, {agent.actor_critic: {imagined, burnt_in} - {0}})
    if agent.world_model is None or agent.reward_end is None:
        return agent
    apply(execution, {agent.reward_end: {imagined, settings.batch_size * (settings.segment_length - 1)}})
    sizes = execution.sampled_sizes(imagined) | {config.training.batch_size}
    apply(execution, dict.fromkeys(agent.world_model.compilable, sizes))
    return replace(agent, world_model=agent.world_model.in_streams(execution.sampling_streams))


def facts_of(execution: Execution) -> dict[str, str]:
    """What a result says was done."""
    streams = {"sampling_streams": str(execution.sampling_streams)} if execution.sampling_streams > 1 else {}
    return {"compile": execution.compile, "cuda_graphs": execution.cuda_graphs, **streams}


def compile_rows(networks: Iterable[Compilable]) -> list[Row]:
    """The seconds that first calls of compiled networks took; no row where nothing was compiled."""
    compiled = [network.compiled for network in networks if network.compiled is not None]
    return [Row("compile_seconds", sum(c.seconds for c in compiled), measured=True)] if compiled else []
