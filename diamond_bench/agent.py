"""The agent: a world model, a model of rewards and ends, and a policy. Building, saving, loading, and conversion from the authors'
format."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from diamond_bench.config import FactoredObjective
from diamond_bench.envs.games import num_actions
from diamond_bench.errors import UserError
from diamond_bench.models.actor_critic import ActorCritic, Policy, ViewingPolicy
from diamond_bench.models.authors_checkpoint import AuthorsCheckpoint, read_authors_checkpoint
from diamond_bench.models.authors_names import Component
from diamond_bench.models.description import AgentDescription
from diamond_bench.models.precision import Precision
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.files import read_json, temporary_name, write_json
from diamond_bench.studies.agents import DESCRIPTION_FILE
from diamond_bench.typed import build, to_plain
from diamond_bench.worlds.contract import Reconstructing, TrainedWorld
from diamond_bench.worlds.families import build_world_model, load_world_model

__all__ = ["Agent", "AgentDescription", "build_agent", "import_agent", "load_agent", "read_checkpoint_of", "save_agent"]

_PAPER_OBJECTIVE = FactoredObjective()
DENOISER_FOLDER = "denoiser"
_WEIGHTS: dict[Component, str] = {"rew_end_model": "reward_end.safetensors", "actor_critic": "actor_critic.safetensors"}


@dataclass(frozen=True)
class Agent:
    """Plays a game, and imagines it if it has a world model (paper section 3)."""

    world_model: TrainedWorld | None
    """None if the agent is model-free."""
    reward_end: RewardEndModel | None
    """None if the agent is model-free, or if the world model predicts rewards and ends itself."""
    actor_critic: ActorCritic
    description: AgentDescription

    @property
    def policy(self) -> Policy:
        """The actor-critic as it plays the real game: it sees what `actor_critic.observations` says."""
        if self.description.actor_critic.observations == "frames":
            return self.actor_critic
        world = cast(Reconstructing, self.world_model)
        return ViewingPolicy(self.actor_critic, lambda frames: world.reconstruct(frames).frames)

    @property
    def networks(self) -> dict[Component, nn.Module]:
        """The trained networks by component."""
        networks: dict[Component, nn.Module] = {}
        if self.world_model is not None:
            networks |= cast(Mapping[Component, nn.Module], self.world_model.networks)
        if self.reward_end is not None:
            networks["rew_end_model"] = self.reward_end
        return {**networks, "actor_critic": self.actor_critic}


def build_agent(description: AgentDescription, precision: Precision = "fp32", device: torch.device | str = "cpu") -> Agent:
    """An agent with fresh weights, drawn from torch's global CPU generator whatever the device.

    Raises UserError if a network's widths do not fit together.
    """
    d = description
    world_model = reward_end = None
    if not d.model_free:
        spec = WorldSpec(FrameSpec.square(d.frame_size), ActionSpec.discrete(d.num_actions))
        world_model = build_world_model(d, spec, precision, device)
        if not (world_model.spec.rewards and world_model.spec.ends):
            reward_end = RewardEndModel(d.reward_end, d.num_actions, d.frame_size, precision=precision).to(device)
    actor_critic = ActorCritic(d.actor_critic, d.num_actions, d.frame_size, precision=precision).to(device)
    if torch.device(device).type == "cpu":  # narrow networks then train in about three quarters of the time
        for network in (reward_end, actor_critic):
            if network is not None:
                network.to(memory_format=torch.channels_last)
    return Agent(world_model, reward_end, actor_critic, description)


def save_agent(agent: Agent, folder: Path) -> None:
    """Writes an agent's folder in one piece: denoiser/ (`TrainedWorld.save`), one .safetensors file per network, and agent.json.

    An existing folder is replaced once the new one is complete.
    """
    temporary = temporary_name(folder)
    temporary.mkdir(parents=True)
    try:
        if agent.world_model is not None:
            (temporary / DENOISER_FOLDER).mkdir()
            agent.world_model.save(temporary / DENOISER_FOLDER)
        for component, name in _WEIGHTS.items():
            if component in agent.networks:
                state = agent.networks[component].state_dict()
                save_file({key: tensor.contiguous() for key, tensor in state.items()}, temporary / name)
        write_json(temporary / DESCRIPTION_FILE, to_plain(agent.description))
        if folder.exists():
            old = temporary_name(folder)
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_agent(folder: Path, precision: Precision = "fp32", device: torch.device | str = "cpu") -> Agent:
    """Loads the agent saved in `folder`. Raises UserError with the name of a file that is missing, damaged or does not fit."""
    description = _read_description(folder / DESCRIPTION_FILE)
    agent = build_agent(description, precision, device)
    for component, name in _WEIGHTS.items():
        if component in agent.networks:
            _load_weights(agent.networks[component], folder / name)
    if agent.world_model is None:
        return agent
    world_model = load_world_model(folder / DENOISER_FOLDER, FrameSpec.square(description.frame_size), precision, device)
    if world_model.description != agent.world_model.description:
        raise UserError(f"{folder / DENOISER_FOLDER}: not the world model that the folder's {DESCRIPTION_FILE} describes")
    return Agent(world_model, agent.reward_end, agent.actor_critic, description)


def _read_description(file: Path) -> AgentDescription:
    try:
        return build(AgentDescription, read_json(file))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; an agent's folder contains it and the weights") from None
    except (OSError, TypeError) as error:  # TypeError: a field is missing
        raise UserError(f"{file}: damaged or invalid: {error}") from None
    except UserError as error:
        raise error if str(file) in str(error) else UserError(f"{file}: {error}") from None


def _load_weights(network: nn.Module, file: Path) -> None:
    try:
        state = load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file, although the folder's {DESCRIPTION_FILE} lists it") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{file}: damaged or invalid: {error}") from None
    expected = network.state_dict()
    if {n: (t.shape, t.dtype) for n, t in state.items()} != {n: (t.shape, t.dtype) for n, t in expected.items()}:
        raise UserError(f"{file}: its tensors are not those of the network that {DESCRIPTION_FILE} describes")
    network.load_state_dict(state)


def read_checkpoint_of(game: str, file: Path, frame_size: int | None = None) -> AuthorsCheckpoint:
    """Reads an authors' checkpoint and checks that its agent can play this game.

    Raises UserError with the file's name if it is not such a checkpoint or has another number of actions than the game.
    """
    actions = num_actions(game)
    checkpoint = read_authors_checkpoint(file, game, frame_size)
    if checkpoint.description.num_actions != actions:
        raise UserError(f"{file}: an agent with {checkpoint.description.num_actions} actions, but {game} has {actions}: name its own game")
    return checkpoint


def import_agent(
    file: Path, game: str, frame_size: int | None = None, objective: FactoredObjective = _PAPER_OBJECTIVE
) -> tuple[Agent, AuthorsCheckpoint]:
    """The agent in a checkpoint file of the authors' format, on the CPU, and the content of the file.

    Such a file does not contain the constants of the `objective` of its training. Other settings that it does not contain have the paper's
    values. `frame_size` is needed if its tensors fit frames of several sizes. Raises UserError, see `read_checkpoint_of`.
    """
    checkpoint = read_checkpoint_of(game, file, frame_size)
    checkpoint = replace(checkpoint, description=replace(checkpoint.description, objective=objective))
    agent = build_agent(checkpoint.description)
    for component, network in agent.networks.items():
        network.load_state_dict(checkpoint.states[component])
    return agent, checkpoint
