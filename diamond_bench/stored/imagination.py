"""Opens imagined games: what imagines, what predicts rewards and ends, and the real play that episodes start from."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from diamond_bench.config import WORLD_FAMILIES, EnvConfig, RunConfig, Sampler, world_family
from diamond_bench.config.worlds import DIAMOND
from diamond_bench.data.replay import REPLAY_FILE, Replay
from diamond_bench.data.static import load_info, load_split
from diamond_bench.envs import games
from diamond_bench.envs.play import Collector, Player
from diamond_bench.errors import UserError, nearest
from diamond_bench.evaluation.player import PolicyPlayer, UniformPlayer
from diamond_bench.imagination.env import GeneratorDraws, ImaginationEnv, ImaginationSettings, RewardEnd
from diamond_bench.imagination.games import RENDER_MODES, ImaginedGames, Reward
from diamond_bench.imagination.starts import EpisodeStarts, ReplayStarts, StartSegments
from diamond_bench.models.precision import Precision
from diamond_bench.models.threads import torch_threads
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.stored.models import check_placement, load_agent, load_world_model, require_whole, training_behind, world_model_in
from diamond_bench.studies.agents import AGENT_KINDS, trained_with
from diamond_bench.studies.plan import run_config
from diamond_bench.worlds.contract import WorldModel
from diamond_bench.worlds.families import open_world
from diamond_bench.worlds.recordings import RecordedReplay, recorded_episodes

START_STEPS = 1000
"""Real steps that are played to start from, where none are recorded and nobody says how many."""
_MAX_START_STEPS = 1_000_000
_PRELOAD = 4
"""Batches of start segments that are burnt in at once: few, so that no step takes much longer than the others."""
_PLAY_SEED = 0


@dataclass(frozen=True)
class How:
    """How imagined games are opened; None leaves a choice to the job."""

    game: str | None = None
    start_steps: int | None = None
    sampler: Sampler | None = None
    milestone: float | None = None
    device: str = "cpu"
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Imagination:
    """What imagines games, and where they start."""

    world: WorldModel
    reward_end: RewardEnd | None
    starts: StartSegments

    @property
    def rewarded(self) -> bool:
        """Whether rewards are predicted."""
        return self.reward_end is not None or self.world.spec.rewards

    def env(self, num_envs: int, horizon: int) -> ImaginationEnv:
        """The games, as tensors. Without a seed in `reset`, they differ from call to call."""
        draws = GeneratorDraws(_generator(self.world.device))
        settings = ImaginationSettings(num_envs, horizon, _PRELOAD, rewards=False)
        return ImaginationEnv(self.world, self.reward_end, self.starts, draws, settings)


def opened(
    store: Store,
    source: str,
    how: How,
    num_envs: int,
    horizon: int,
    reward: Reward | None,
    render_mode: str | None,
    threads: int,
    spec: EnvSpec,
) -> ImaginedGames:
    """As `api.imagination_env`."""
    if not isinstance(source, str):
        raise UserError(f"source: expected a job's id or a family's name, got {type(source).__name__}; a loaded agent has its job's id")
    for name, value in (("num_envs", num_envs), ("horizon", horizon)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise UserError(f"{name}={value!r}: expected a whole number from 1")
    if render_mode not in (None, *RENDER_MODES):
        raise UserError(f"render_mode={render_mode!r}: {nearest(str(render_mode), RENDER_MODES)} (or None)")
    if reward is not None and not callable(reward):
        raise UserError(f"reward={reward!r}: expected a function reward(before, actions, after)")
    with torch_threads(threads):
        imagination = imagination_of(store, source, how)
    if reward is None and not imagination.rewarded:
        raise UserError(
            f"{source}: predicts no rewards; pass reward=, a function reward(before, actions, after) that returns one number per game "
            "(frames are (b, h, w, 3) uint8)"
        )
    return ImaginedGames(imagination.env(num_envs, horizon), imagination.world.spec.actions, reward, threads, render_mode, spec)


def imagination_of(store: Store, source: str, how: How) -> Imagination:
    """What a job of the store, or a family that is not trained, imagines. `source`: a job's id or its beginning, or the family's name.

    Raises UserError for everything that imagines nothing, and for settings that the source does not take.
    """
    check_placement(how.device, how.precision)
    families = untrained_families()
    if source in families:
        return _of_family(source, how)
    if source == DIAMOND or source in WORLD_FAMILIES:
        raise UserError(f"{source}: models of this family are trained; name a job that trained one, or {' or '.join(families)}")
    if not set(source.rpartition("/")[2]) <= set("0123456789abcdef"):
        raise UserError(f"{source!r}: neither a job's id nor a family of world models that is not trained; {nearest(source, families)}")
    ref = store.find(source)
    if how.game is not None:
        raise UserError(f"game={how.game}: only a family takes a game ({', '.join(families)}); {ref} has its own")
    spec = store.spec(ref)
    if ref.kind == "evaluate_world_model" and not world_family(spec.config.family).trained:
        return _of_untrained_evaluation(store, ref, how)
    training, _ = training_behind(store, ref)
    if ref.kind == "evaluate_world_model" and how.sampler is None:
        how = replace(how, sampler=spec.config.sampler)
    return _of_agent(store, training, how) if training.kind in AGENT_KINDS else _of_training(store, ref, training, how)


def untrained_families() -> list[str]:
    """Names of the families that are not trained."""
    return [name for name in WORLD_FAMILIES if not world_family(_with_family(name).family).trained]


def _of_family(name: str, how: How) -> Imagination:
    """A family's world of a game, from new real play with random actions."""
    _refuse(name, how, "sampler", "milestone")
    if how.game is None:
        raise UserError(f'{name}: say in which game, such as game="Pong"')
    config = replace(_with_family(name), game=games.check_game(how.game))
    world_family(config.family).check(config.family, config, "world_model")
    assert config.family is not None
    spec = games.spec(how.game, config.env)
    replay = _played(how.game, config.env, UniformPlayer(sum(spec.actions.sizes)), how, life_loss_ends=False)
    play = RecordedReplay(how.game, config.env, _PLAY_SEED, replay)
    world = open_world(config.family, spec, torch.device(how.device), play)
    return Imagination(world, None, ReplayStarts(replay, world.context, _generator(world.device)))


def _of_agent(store: Store, ref: JobRef, how: How) -> Imagination:
    """An agent's imagination: its world model and its model of rewards and ends, or the family in which it learned."""
    config, (game, seed, env) = store.spec(ref).config, trained_with(store, ref)
    family = config.family if isinstance(config, TrainAgent) else None
    if how.milestone not in (None, 1.0):
        raise UserError(f"milestone={how.milestone}: {ref} kept 1.0 alone")
    agent = load_agent(store, ref, how.device, how.precision)
    world: WorldModel
    if family is None:
        own = config.sampler if isinstance(config, TrainAgent) else run_config({"scale": "paper"}, {}).sampler
        world = world_model_in(agent, ref).bound(how.sampler or own)
    else:
        _refuse(family.name, how, "sampler")
    if how.start_steps is None and isinstance(config, TrainAgent):
        replay = _replay_of(store, ref, config, how)
    else:
        replay, seed = _played(game, env, PolicyPlayer(agent.actor_critic), how), _PLAY_SEED
    if family is not None:
        world = open_world(family, games.spec(game, env), torch.device(how.device), RecordedReplay(game, env, seed, replay))
    described = agent.description
    length = max(described.conditioning.num_frames, described.actor_critic.start_frames)
    return Imagination(world, agent.reward_end, ReplayStarts(replay, length, _generator(world.device)))


def _of_training(store: Store, ref: JobRef, training: JobRef, how: How) -> Imagination:
    """A world model of a training, from the held-out episodes of its dataset."""
    _refuse(str(ref), how, "start_steps")
    world = load_world_model(store, ref, how.milestone, how.device, how.precision)
    bound = world.bound(how.sampler or run_config({"scale": "paper"}, {}).sampler)
    dataset = store.spec(training).inputs["dataset"]
    require_whole(store, dataset)
    heldout = load_split(store.folder(dataset), "heldout").to(how.device)
    return Imagination(bound, None, EpisodeStarts(heldout, world.context, _generator(world.device)))


def _of_untrained_evaluation(store: Store, ref: JobRef, how: How) -> Imagination:
    """A family that an evaluation is of, from the held-out episodes of the evaluation's dataset."""
    spec = store.spec(ref)
    family, dataset = spec.config.family, spec.inputs["dataset"]
    _refuse(family.name, how, "start_steps", "sampler", "milestone")
    require_whole(store, dataset)
    folder = store.folder(dataset)
    heldout = load_split(folder, "heldout")
    world = open_world(family, load_info(folder).spec, torch.device(how.device), recorded_episodes(folder, heldout))
    return Imagination(world, None, EpisodeStarts(heldout.to(how.device), world.context, _generator(world.device)))


def _refuse(whose: str, how: How, *keys: str) -> None:
    """Raises UserError for settings that a source does not take."""
    why = {
        "sampler": "nothing is sampled there",
        "milestone": "it has no milestones",
        "start_steps": "it starts from the held-out episodes of its dataset",
    }
    for key in keys:
        if getattr(how, key) is not None:
            raise UserError(f"{key}={getattr(how, key)}: {whose} takes none: {why[key]}; leave it out")


def _replay_of(store: Store, ref: JobRef, config: TrainAgent, how: How) -> Replay:
    """The real play of an agent's training. Raises UserError where it is no longer there."""
    folder, steps = store.folder(ref) / "checkpoint", int(store.result(ref).info["real_steps"])
    if not (folder / REPLAY_FILE).exists():
        raise UserError(
            f"{ref}: the real play of its training was removed with its checkpoint (gc), so there is nothing to start from; "
            f"start_steps={START_STEPS} plays that many steps of the game first"
        )
    return Replay.load(folder, steps, steps, config.env.frame_size, how.device)


def _played(game: str, env: EnvConfig, player: Player, how: How, life_loss_ends: bool = True) -> Replay:
    """New real play. Raises UserError for a game whose play a replay cannot hold."""
    steps, frames = START_STEPS if how.start_steps is None else how.start_steps, games.frames(game, env)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= _MAX_START_STEPS:
        raise UserError(f"start_steps={steps!r}: expected a whole number from 1 to {_MAX_START_STEPS:,}")
    if games.family_of(game).action_kind != "Discrete" or frames.height != frames.width:
        raise UserError(
            f"game={game}: real play to start from needs Discrete actions and square frames; name an evaluation of the family in this game"
        )
    replay = Replay(steps, frames.height, how.device)
    Collector(games.vector_env(game, env, 1, life_loss_ends), player, replay, _PLAY_SEED).collect(steps)
    return replay


def _with_family(name: str) -> RunConfig:
    return run_config({"scale": "paper"}, {"family": name})


def _generator(device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    generator.seed()
    return generator
