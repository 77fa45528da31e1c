"""Opens imagined games: what imagines, what predicts rewards and ends, and the real play that episodes start from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from diamond_bench.agent import Agent
from diamond_bench.config import SAMPLERS, WORLD_FAMILIES, CascadeSampler, EnvConfig, OdeSampler, RunConfig, Sampler, world_family
from diamond_bench.config.worlds import DIAMOND, untrained_families
from diamond_bench.data.replay import REPLAY_FILE, Replay
from diamond_bench.data.static import EpisodeSet, load_info, load_split
from diamond_bench.diffusion.schedules import check_closed_loop
from diamond_bench.envs import games
from diamond_bench.envs.play import Collector, Player
from diamond_bench.errors import UserError, nearest
from diamond_bench.evaluation.player import PolicyPlayer, UniformPlayer
from diamond_bench.imagination.env import GeneratorDraws, ImaginationEnv, ImaginationSettings, RewardEnd
from diamond_bench.imagination.games import RENDER_MODES, ImaginedGames, Reward
from diamond_bench.imagination.starts import EpisodeStarts, ReplayStarts, StartSegments
from diamond_bench.models.actor_critic import Policy
from diamond_bench.models.precision import Precision
from diamond_bench.models.threads import torch_threads
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.stored.models import (
    check_placement,
    load_agent,
    load_world_model,
    milestones_of,
    require_whole,
    training_behind,
    world_model_in,
)
from diamond_bench.studies.agents import AGENT_KINDS, trained_with
from diamond_bench.studies.plan import run_config
from diamond_bench.worlds.contract import RecordedPlay, TrainedWorld, WorldModel
from diamond_bench.worlds.families import open_world
from diamond_bench.worlds.recordings import PlayedEpisode, RecordedReplay, recorded_episodes

START_STEPS = 1000
"""Real steps that are played to start from, where none are recorded and nobody says how many."""
_MAX_START_STEPS = 1_000_000
_PRELOAD = 4
"""Batches of start segments that are burnt in at once: few, so that no step takes much longer than the others."""
PLAY_SEED = 0
"""The seed of play that is played to start from."""


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
class RealPlay:
    """Real play that imagined games start from."""

    episodes: EpisodeSet | Replay
    """A dataset's held-out episodes, on the CPU, or the replay of one environment."""
    recording: RecordedPlay | None
    """The same play with its seeds, so that it can be replayed. None for an imported dataset, whose seeds nobody recorded."""
    actions: ActionSpec
    """Its actions with their names, which a saved model does not know."""


@dataclass(frozen=True)
class Imagination:
    """What imagines games, and where they start."""

    world: WorldModel
    reward_end: RewardEnd | None
    real: RealPlay
    length: int
    """Frames of a start segment."""
    policy: Policy | None = None
    """The agent's."""
    load: Callable[[float | None], TrainedWorld] | None = None
    """load(milestone) -> the trained world without a sampler; None is the milestone of `world`. Raises UserError for a milestone that was
    not kept. None for a family that is not trained."""
    sampler: Sampler | None = None
    """The sampler of `world`. None for a family that is not trained."""
    milestones: tuple[float, ...] = ()
    """The milestones that `load` knows, ascending."""
    milestone: float | None = None
    """That of `world`. None for an agent, and for a family that is not trained."""

    @property
    def rewarded(self) -> bool:
        """Whether rewards are predicted."""
        return self.reward_end is not None or self.world.spec.rewards

    def env(self, num_envs: int, horizon: int) -> ImaginationEnv:
        """The games, as tensors. Without a seed in `reset`, they differ from call to call."""
        device, episodes = self.world.device, self.real.episodes
        starts: StartSegments
        if isinstance(episodes, Replay):
            starts = ReplayStarts(episodes, self.length, _generator(device))
        else:
            starts = EpisodeStarts(episodes.to(device), self.length, _generator(device))
        settings = ImaginationSettings(num_envs, horizon, _PRELOAD, rewards=False)
        return ImaginationEnv(self.world, self.reward_end, starts, GeneratorDraws(_generator(device)), settings)


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
    if imagination.sampler is not None:
        check_closed_loop(imagination.sampler, "a policy")
    if reward is None and not imagination.rewarded:
        raise UserError(
            f"{source}: predicts no rewards; pass reward=, a function reward(before, actions, after) that returns one number per game "
            "(frames are (b, h, w, 3) uint8)"
        )
    return ImaginedGames(imagination.env(num_envs, horizon), imagination.world.spec.actions, reward, threads, render_mode, spec)


def imagination_of(store: Store, source: str, how: How, real: RealPlay | None = None) -> Imagination:
    """What a job of the store, or a family that is not trained, imagines. `source`: a job's id or its beginning, or the family's name.
    `real`: the play to start from, in place of the source's own.

    Raises UserError for everything that imagines nothing, and for settings that the source does not take.
    """
    check_placement(how.device, how.precision)
    families = untrained_families()
    if source in families:
        return _of_family(source, how, real)
    if source == DIAMOND or source in WORLD_FAMILIES:
        raise UserError(f"{source}: models of this family are trained; name a job that trained one, or {' or '.join(families)}")
    if not set(source.rpartition("/")[2]) <= set("0123456789abcdef"):
        raise UserError(f"{source!r}: neither a job's id nor a family of world models that is not trained; {nearest(source, families)}")
    ref = store.find(source)
    if how.game is not None:
        raise UserError(f"game={how.game}: only a family takes a game ({', '.join(families)}); {ref} has its own")
    spec = store.spec(ref)
    if ref.kind == "evaluate_world_model" and not world_family(spec.config.family).trained:
        return _of_untrained_evaluation(store, ref, how, real)
    training, _ = training_behind(store, ref)
    if ref.kind == "evaluate_world_model" and how.sampler is None:
        how = replace(how, sampler=spec.config.sampler)
    opener = _of_agent if training.kind in AGENT_KINDS else _of_training
    return opener(store, ref, training, how, real)


def dataset_play(store: Store, dataset: JobRef) -> RealPlay:
    """The held-out episodes of a dataset."""
    require_whole(store, dataset)
    folder = store.folder(dataset)
    heldout = load_split(folder, "heldout")
    return RealPlay(heldout, recorded_episodes(folder, heldout), load_info(folder).spec.actions)


def agent_play(store: Store, ref: JobRef, agent: Agent, how: How) -> RealPlay:
    """The real play of an agent's training. If it was imported, or if `start_steps` asks for it, its policy plays new one."""
    config, (game, seed, env) = store.spec(ref).config, trained_with(store, ref)
    if how.start_steps is None and isinstance(config, TrainAgent):
        replay = _replay_of(store, ref, config, how)
    else:
        replay, seed = _played(game, env, PolicyPlayer(agent.policy), how), PLAY_SEED
    return RealPlay(replay, RecordedReplay(game, env, seed, replay), games.actions(game))


def random_play(game: str, env: EnvConfig, how: How) -> RealPlay:
    """New real play with random actions. A lost life ends no episode.

    If a replay cannot hold the game, which needs Discrete actions and square frames, the play is one episode of its scripted policy, or of
    random actions if there is none.
    """
    actions, frames = games.spec(game, env).actions, games.frames(game, env)
    if actions.kind != "Discrete" or frames.height != frames.width:
        return _one_episode(game, env, _start_steps(how))
    replay = _played(game, env, UniformPlayer(sum(actions.sizes)), how, life_loss_ends=False)
    return RealPlay(replay, RecordedReplay(game, env, PLAY_SEED, replay), actions)


def has_replay(store: Store, ref: JobRef) -> bool:
    """Whether the real play of an agent's training is in the store. An import has none, and `gc` removes it."""
    return ref.kind == "train_agent" and (store.folder(ref) / "checkpoint" / REPLAY_FILE).exists()


def _of_family(name: str, how: How, real: RealPlay | None) -> Imagination:
    """A family's world of a game, from new real play with random actions."""
    _refuse(name, how, "sampler", "milestone")
    if real is None:
        if how.game is None:
            raise UserError(f'{name}: say in which game, such as game="Pong"')
        config = replace(_with_family(name), game=games.check_game(how.game))
        world_family(config.family).check(config.family, config, "world_model")
        real = random_play(how.game, config.env, how)
    if (played := real.recording) is None:
        raise UserError(f"{name}: the episodes to start from were imported, so their game is unknown; name an evaluation of the family")
    family = _with_family(name).family
    assert family is not None
    world = open_world(family, games.spec(played.game, played.env), torch.device(how.device), played)
    return Imagination(world, None, real, world.context)


def _of_agent(store: Store, ref: JobRef, training: JobRef, how: How, real: RealPlay | None) -> Imagination:
    """An agent's imagination: its world model and its model of rewards and ends, or the family in which it learned."""
    config, (game, _, env) = store.spec(training).config, trained_with(store, training)
    family = config.family if isinstance(config, TrainAgent) else None
    _check_kept_by_agent(training, how.milestone)
    agent = load_agent(store, training, how.device, how.precision)
    described = agent.description
    length = max(described.conditioning.num_frames, described.actor_critic.start_frames)
    if family is None or world_family(family).trained:
        own = config.sampler if isinstance(config, TrainAgent) else run_config({"scale": "paper"}, {}).sampler
        trained, sampler = world_model_in(agent, training), how.sampler or own
        length = max(trained.context, described.actor_critic.start_frames)
        bound, real = trained.bound(sampler), real or agent_play(store, training, agent, how)

        def load(milestone: float | None) -> TrainedWorld:
            _check_kept_by_agent(training, milestone)
            return trained

        return Imagination(bound, agent.reward_end, real, length, agent.policy, load, sampler)
    _refuse(family.name, how, "sampler")
    real = real or agent_play(store, training, agent, how)
    world = open_world(family, games.spec(game, env), torch.device(how.device), real.recording)
    return Imagination(world, agent.reward_end, real, length, agent.policy)


def _check_kept_by_agent(ref: JobRef, milestone: float | None) -> None:
    if milestone not in (None, 1.0):
        raise UserError(f"milestone={milestone}: {ref} kept 1.0 alone")


def _of_training(store: Store, ref: JobRef, training: JobRef, how: How, real: RealPlay | None) -> Imagination:
    """A world model of a training, from the held-out episodes of its dataset."""
    _refuse(str(ref), how, "start_steps")

    def load(milestone: float | None) -> TrainedWorld:
        return load_world_model(store, ref, milestone, how.device, how.precision)

    trained = load(how.milestone)
    share = training_behind(store, ref)[1].milestone if how.milestone is None else how.milestone
    sampler = how.sampler or _first_fitting(trained)
    world = trained.bound(sampler)
    dataset = store.spec(ref).inputs.get("dataset")
    if dataset is None:
        if real is None:
            raise UserError(
                f"{ref}: an imported world model has no play to start from; evaluate it on a dataset and name the evaluation, or start "
                "from spawn folders (play --spawn FOLDER)"
            )
    else:
        real = real or dataset_play(store, dataset)
    kept = tuple(sorted(milestones_of(store, training)))
    return Imagination(
        world,
        None,
        real,
        world.context,
        load=lambda milestone: trained if milestone in (None, share) else load(milestone),
        sampler=sampler,
        milestones=kept,
        milestone=share,
    )


def _first_fitting(trained: TrainedWorld) -> Sampler:
    """The sampler of a model that nobody chose one for: the first one that fits its training, in the order of the registry, with the
    defaults of conf/sampler. A model that predicts changes does not take their truncation; it gets rounding. A model has noise on past
    frames if it was trained with it, and only then."""
    refusals = []
    for name in SAMPLERS:
        default = run_config({"scale": "paper", "sampler": name}, {}).sampler
        candidates = [default, replace(default, quantization="round")]
        noisy = [sampler for sampler in candidates if isinstance(sampler, OdeSampler)]
        for sampler in (*candidates, *(replace(one, s_cond=level) for one in noisy for level in (0.0, CascadeSampler().s_cond))):
            try:
                trained.bound(sampler)
                return sampler
            except UserError as error:
                refusals.append(error)
    raise refusals[0]


def _of_untrained_evaluation(store: Store, ref: JobRef, how: How, real: RealPlay | None) -> Imagination:
    """A family that an evaluation is of, from the held-out episodes of the evaluation's dataset."""
    spec = store.spec(ref)
    family, dataset = spec.config.family, spec.inputs["dataset"]
    _refuse(family.name, how, "start_steps", "sampler", "milestone")
    real = real or dataset_play(store, dataset)
    world = open_world(family, load_info(store.folder(dataset)).spec, torch.device(how.device), real.recording)
    return Imagination(world, None, real, world.context)


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
    """New real play of a game with Discrete actions and square frames."""
    steps = _start_steps(how)
    replay = Replay(steps, games.frames(game, env).height, how.device)
    Collector(games.vector_env(game, env, 1, life_loss_ends), player, replay, PLAY_SEED).collect(steps)
    return replay


def _start_steps(how: How) -> int:
    steps = START_STEPS if how.start_steps is None else how.start_steps
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= _MAX_START_STEPS:
        raise UserError(f"start_steps={steps!r}: expected a whole number from 1 to {_MAX_START_STEPS:,}")
    return steps


def _one_episode(game: str, config: EnvConfig, steps: int) -> RealPlay:
    """At most `steps` steps of one episode. With an end within them, the episode is shorter."""
    policy_name = "expert" if game in games.family_of(game).experts else "random"
    env, policy = games.make_env(game, config), games.make_policy(policy_name, game, np.random.default_rng(PLAY_SEED))
    described = games.spec(game, config).actions
    frame, info = env.reset(seed=PLAY_SEED)
    frames, actions = [np.array(frame)], [np.zeros(described.shape, described.dtype)]
    over = False
    while not over and len(frames) <= steps:
        actions.append(np.asarray(policy(info.get("ram"), actions[-1])))
        frame, _, terminated, truncated, info = env.step(actions[-1])
        frames.append(np.array(frame))
        over = terminated or truncated
    env.close()
    rows = len(frames)
    flags = torch.zeros(rows, dtype=torch.bool)
    episodes = EpisodeSet(
        frames=torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(),
        actions=torch.from_numpy(np.stack([*actions[1:], actions[0]])),  # after the last frame nothing was played
        rewards=None,
        terminations=flags,
        truncations=flags,
        starts=torch.tensor([0]),
        lengths=torch.tensor([rows]),
    )
    return RealPlay(episodes, PlayedEpisode(Path(), episodes, game, config, (PLAY_SEED,)), described)


def _with_family(name: str) -> RunConfig:
    return run_config({"scale": "paper"}, {"family": name})


def _generator(device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    generator.seed()
    return generator
