"""The jobs of an agent (training, import, evaluation), and agents of the store that a user names. Without torch."""

import difflib
import hashlib
import itertools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diamond_bench.compose import built_family
from diamond_bench.config import (
    AgentConfig,
    ConditioningConfig,
    EnvConfig,
    FactoredObjective,
    NetworkConfig,
    OdeSampler,
    RunConfig,
    TrainingConfig,
    imported,
    predicts_outcomes,
    world_family,
)
from diamond_bench.config.agent import ActorCriticConfig, AgentEvaluationConfig, RewardEndConfig
from diamond_bench.config.worlds import DIAMOND, WORLD_FAMILIES
from diamond_bench.diffusion.schedules import check_sampler
from diamond_bench.envs import games
from diamond_bench.errors import UserError, nearest
from diamond_bench.reading import open_file, read_yaml
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import DamagedFile, read_json
from diamond_bench.store.jobspec import ID, JobRef, JobSpec
from diamond_bench.store.kinds import EvaluateAgent, ImportAgent, PlayRandom, TrainAgent
from diamond_bench.store.shapes import AGENT, fit
from diamond_bench.studies.execution import of_no_compilation
from diamond_bench.studies.families import is_imported
from diamond_bench.typed import build

AGENT_FOLDER = "agent"
"""The folder of an agent in its job's folder, and the description in it."""
AGENT_KINDS = ("train_agent", "import_agent")
"""The kinds of jobs that produce an agent (agent/ in their folder)."""
DESCRIPTION_FILE = "agent.json"
FILM = "media/episode.mp4"
"""Where an evaluation of an agent leaves its video, in its folder."""
_WITH_A_MODEL = (
    *("initial_steps", "max_initial_steps", "initial_rare_rewards", "collection", "epsilon", "temperature", "final_epochs"),
    *("first_denoiser_updates", "first_reward_end_updates", "first_actor_critic_updates"),
    *("denoiser_updates", "reward_end_updates", "actor_critic_updates"),
)
"""Settings of the loop without effect on a model-free agent, which learns from each rollout during play."""
_OF_IMAGINATION = ("batch_size", "horizon", "preload", "discard_left_overs", "start_frames", "observations")
"""Settings of the policy's imagination and of its world model's tokenizer, also without effect on it."""
_NOT_MODEL_FREE = (
    *("family", "objective", "conditioning", "network", "training", "sampler", "reward_end"),
    *("execution.compile", "execution.cuda_graphs", "execution.sampling_streams", "execution.encode_past"),
    *(f"agent.{name}" for name in _WITH_A_MODEL),
    *(f"actor_critic.{name}" for name in _OF_IMAGINATION),
)
_PER_GAME = Path(__file__).parent.parent / "conf" / "per_game.yaml"


def training_job(config: RunConfig) -> JobSpec:
    """The job that trains a run's agent. Settings that cannot change the agent have their neutral value, so that they change no
    identity."""
    neutral = TrainingConfig()
    training = replace(config.training, num_steps=neutral.num_steps, milestones=neutral.milestones, cooldown=neutral.cooldown)
    config_of_job = TrainAgent(
        config.game,
        config.seed,
        config.env,
        config.objective,
        config.conditioning,
        config.network,
        training,
        config.sampler,
        config.reward_end,
        config.actor_critic,
        config.agent,
        config.execution,
        config.family,
    )
    if config.agent.model_free:
        world: dict[str, Any] = {
            "family": None,
            "objective": FactoredObjective(),
            "conditioning": ConditioningConfig(),
            "network": NetworkConfig(),
            "training": neutral,
            "sampler": OdeSampler(),
            "reward_end": RewardEndConfig(),
            "actor_critic": replace(config.actor_critic, **{name: getattr(ActorCriticConfig(), name) for name in _OF_IMAGINATION}),
            "agent": replace(config.agent, **{name: getattr(AgentConfig(), name) for name in _WITH_A_MODEL}),
        }
        config_of_job = replace(config_of_job, **world)
    return JobSpec("train_agent", config_of_job)


def evaluation_job(config: RunConfig, agent: JobRef) -> JobSpec:
    """The job that plays an agent's final episodes. The policy sees no final observation, so the pooling of screens has no effect."""
    sampler = config.sampler if config.agent_evaluation.video else OdeSampler()
    env = replace(config.env, pooling=EnvConfig().pooling)
    return JobSpec(
        "evaluate_agent", EvaluateAgent(env, config.agent_evaluation, sampler, of_no_compilation(config.execution)), {"agent": agent}
    )


def random_play_job(config: RunConfig) -> JobSpec:
    """The job that plays a run's game at random, under the conditions of the agent's final games. Settings of a policy change nothing."""
    neutral, env = AgentEvaluationConfig(), replace(config.env, pooling=EnvConfig().pooling)
    evaluation = replace(config.agent_evaluation, epsilon=neutral.epsilon, temperature=neutral.temperature, video=neutral.video)
    return JobSpec("play_random", PlayRandom(config.game, env, evaluation))


def check_model_free(settings: Mapping[str, Any]) -> None:
    """Refuses keys, set by a user or a study, that have no effect on a model-free agent. Raises UserError with the first one."""
    for key in settings if settings.get("agent.model_free") is True else ():
        if any(key == unused or key.startswith((f"{unused}.", f"{unused}/")) for unused in _NOT_MODEL_FREE):
            raise UserError(f"{key}: a model-free agent (agent.model_free=true) does not use it, so it has no effect")


def import_job(file: Path, game: str | None, frame_size: int | None = None, **constants: float) -> JobSpec:
    """The job that imports a checkpoint file of the authors' format. Without `game`, the file's name determines the game.

    `constants`: sigma_data and sigma_offset_noise, if they are not the paper's. Raises UserError if the file cannot be read, the game is
    unknown or not given, or a constant is out of range.
    """
    digest = digest_of(file)
    if game is None:
        game = next((known for known in games.games() if known.lower() == file.stem.lower()), None)
        if game is None:
            raise UserError(
                f"{file}: which game is it of? It holds no CS:GO world model. Name the game: diamond-bench import {file} game=Breakout"
            )
    games.num_actions(game)
    config = {"digest": digest, "game": game, "file": str(file.absolute()), "frame_size": frame_size, **constants}
    return JobSpec("import_agent", build(ImportAgent, config))


def digest_of(file: Path) -> str:
    """The SHA-256 of a user's file. Raises UserError if it cannot be read."""
    try:
        with os.fdopen(open_file(file), "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def assumed(config: ImportAgent) -> str:
    """The assumptions of an import about values that the file does not contain."""
    return (
        "the file does not hold two constants of its denoiser's objective; the import uses "
        f"sigma_data={config.sigma_data:g} and sigma_offset_noise={config.sigma_offset_noise:g} (in the paper 0.5 and 0.3); "
        "give others as sigma_data=... or sigma_offset_noise=..."
    )


def find_agent(store: Store, name: str) -> JobRef:
    """The finished agent for a job id (or its beginning, or kind/id), or for a path in or of its folder. Raises UserError."""
    path = Path(name)
    parts = path.absolute().parts if path.exists() else path.parts
    for kind, identity in itertools.pairwise(parts):
        if kind in AGENT_KINDS and ID.fullmatch(identity):
            ref = JobRef.parse(f"{kind}/{identity}")
            if path.exists() and not path.absolute().is_relative_to(store.folder(ref)):
                raise UserError(f"{name}: lies in another store than {store.root}; use output_dir={Path(*parts[: parts.index(kind)])}")
            break
    else:
        ref = _by_id(store, name)
    state = store.state(ref)
    if state.status != "done":
        raise UserError(f"{name}: the agent {ref} is not finished but {state.status}")
    return ref


def _by_id(store: Store, name: str) -> JobRef:
    known = [ref for ref in store.refs() if ref.kind in AGENT_KINDS]
    found = [ref for ref in known if ref.id.startswith(name) or str(ref).startswith(name)] if name else []
    others = [ref for ref in store.refs() if ref.id.startswith(name) or str(ref).startswith(name)] if name and not found else []
    if len(others) == 1:
        raise UserError(f"{name!r} is the job {others[0]}, not an agent; expected a job of the kind {' or '.join(AGENT_KINDS)}")
    if len(found) != 1:
        count = f"{len(found)} agents" if found else "no agent"
        usable = [ref for ref in found or known if store.state(ref).status == "done"]
        usable.sort(key=lambda ref: difflib.SequenceMatcher(None, name.rpartition("/")[2][:200], ref.id).ratio(), reverse=True)
        hint = f"nearest finished ones: {', '.join(map(str, usable[:5]))}" if usable else "none is finished yet"
        raise UserError(f"{name!r} names {count} of {store.root}; {hint} (see `diamond-bench train`, `diamond-bench import`)")
    return found[0]


def is_agent(policy: str) -> bool:
    """Whether a collection policy is an agent of the store, in the form that `with_agents` writes."""
    return policy.partition("/")[0] in AGENT_KINDS


def with_agents(config: RunConfig, store: Store) -> RunConfig:
    """The config with its agents (data.policy, evaluation.world_model) in the form kind/id.

    Raises UserError if there is no such finished agent, or it does not fit the run's game or frames.
    """
    if config.data.dataset is None and config.data.policy not in games.POLICIES:
        agent = _fitting(config, store, "data.policy", config.data.policy)
        config = replace(config, data=replace(config.data, policy=str(agent)))
    if config.evaluation.world_model is not None and is_imported(config.evaluation.world_model):
        return _with_imported(config, store, config.evaluation.world_model)
    if config.evaluation.world_model is not None:
        agent = _fitting(config, store, "evaluation.world_model", config.evaluation.world_model)
        config = _of_the_agent_s_family(replace(config, evaluation=replace(config.evaluation, world_model=str(agent))), store, agent)
    return config


def _of_the_agent_s_family(config: RunConfig, store: Store, agent: JobRef) -> RunConfig:
    """The config with the settings of the family of the agent's world model. A family that is not trained takes the place of
    evaluation.world_model. Raises UserError if the run's family is another trained one, or the sampler does not fit."""
    trained, key = store.spec(agent).config, f"evaluation.world_model={agent}"
    if not world_family(config.family).trained:
        return config
    if config.family is None and isinstance(trained, TrainAgent) and not world_family(trained.family).trained:
        return replace(config, family=trained.family, evaluation=replace(config.evaluation, world_model=None))
    settings = trained.family if isinstance(trained, TrainAgent) and trained.trains_world_model else None
    if settings is None:
        if config.family is not None:
            raise UserError(f"{key}: it has no world model of family={config.family.name}; leave family={config.family.name} out")
        if isinstance(trained, TrainAgent):
            check_sampler(config.sampler, trained.objective)
        return config
    if config.family is None or config.family.name != settings.name:
        raise UserError(f"{key}: its world model is of family={settings.name}; add family={settings.name}")
    if config.family not in (settings, built_family({"name": settings.name})):
        raise UserError(f"{key}: the settings of its family are those of its training; leave out the keys that begin with family.")
    return replace(config, family=settings)


def _with_imported(config: RunConfig, store: Store, name: str) -> RunConfig:
    """The config with the settings of an imported world model (evaluation.world_model). Raises UserError if it is not finished, or of
    another family than the run's."""
    key = f"evaluation.world_model={name}"
    try:
        ref = store.find(name)
        settings = built_family(store.result(ref).info["family"])
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if config.family is None or config.family.name != settings.name:
        raise UserError(f"{key}: it is of family={settings.name}; add family={settings.name}, and a sampler for it")
    world_family(settings).check(settings, config, "world_model")
    return replace(config, family=settings, evaluation=replace(config.evaluation, world_model=str(ref)))


def _fitting(config: RunConfig, store: Store, key: str, name: str) -> JobRef:
    try:
        ref = find_agent(store, name)
    except UserError as error:
        named = f"no policy ({nearest(name, games.POLICIES)}), and " if key == "data.policy" else ""
        raise UserError(f"{key}={name!r}: {named}{error}") from None
    game, _, env = trained_with(store, ref)
    if config.data.dataset is None and game != config.game:
        raise UserError(f"{key}={name}: the agent {ref} plays {game}, not {config.game}; use games={game}")
    if env.frame_size != config.env.frame_size:
        raise UserError(f"{key}={name}: the agent {ref} sees frames of {env.frame_size} pixels; use env.frame_size={env.frame_size}")
    if config.data.dataset is not None:
        from diamond_bench.data.foreign import find_dataset
        from diamond_bench.data.foreign_lengths import stated_actions

        taken, played = stated_actions(find_dataset(config.data.dataset)), games.actions(game)
        if (taken.kind, taken.sizes) != (played.kind, played.sizes):
            raise UserError(
                f"{key}={name}: the agent {ref} plays {game} with {played}, but the actions of data.dataset={config.data.dataset} are "
                f"{taken}; leave one of the two out"
            )
    return ref


def trained_with(store: Store, agent: JobRef) -> tuple[str, int, EnvConfig]:
    """Game, seed and preprocessing of a finished agent of the store."""
    spec = store.spec(agent)
    if isinstance(spec.config, TrainAgent):
        return spec.config.game, spec.config.seed, spec.config.env
    file = store.folder(agent) / AGENT_FOLDER / DESCRIPTION_FILE
    try:
        content = read_json(file)
        fit(content, AGENT, file)
    except (OSError, DamagedFile) as error:
        raise UserError(f"{file}: missing or damaged ({error}); import the checkpoint again") from None
    return spec.config.game, 0, EnvConfig(frame_size=content["frame_size"])


def per_game(game: str) -> Mapping[str, Any]:
    """Settings that the authors changed for this game (conf/per_game.yaml), {dotted key: value}."""
    found: Mapping[str, Any] = read_yaml(_PER_GAME).get(game, {})
    return found


def _check_playable(config: RunConfig) -> None:
    family, frames = games.family_of(config.game), games.frames(config.game, config.env)
    lacks = [] if family.action_kind == "Discrete" else [f"its actions are {family.action_kind}"]
    lacks += [] if family.rewards else ["it gives no rewards"]
    lacks += [] if frames.height == frames.width else [f"its frames are {frames}"]
    lacks += [] if family.saves else ["its state cannot be saved"]
    if lacks:
        raise UserError(
            f"games=[{config.game}]: {' and '.join(lacks)}; an agent needs Discrete actions, rewards, square frames and a state that "
            "can be saved, so that its training can be resumed. "
            "Train and evaluate a world model of it instead (diamond-bench sweep, protocol world_model)"
        )


def _check_reconstructions(config: RunConfig) -> None:
    key, family = "actor_critic.observations=reconstructions", DIAMOND if config.family is None else config.family.name
    if not world_family(config.family).reconstructs:
        names = [name for name, option in WORLD_FAMILIES.items() if imported(option.function).reconstructs]
        raise UserError(f"{key}: family={family} has no tokenizer; use family={' or '.join(names)}, or actor_critic.observations=frames")
    if config.agent.collection == "concurrent":
        raise UserError(f"{key}: the tokenizer learns while agent.collection=concurrent plays; use agent.collection=sequential")


def check_agent(config: RunConfig) -> None:
    """Raises UserError with the first conflict between an agent's settings, or for a game that no agent can play."""
    _check_playable(config)
    agent: AgentConfig = config.agent
    evaluation: AgentEvaluationConfig = config.agent_evaluation
    if agent.budget < agent.initial_steps and not agent.model_free:
        raise UserError(f"agent.budget={agent.budget}: less than the initial collection takes (agent.initial_steps={agent.initial_steps})")
    if agent.max_initial_steps < agent.initial_steps and not agent.model_free:
        raise UserError(f"agent.max_initial_steps={agent.max_initial_steps}: below agent.initial_steps={agent.initial_steps}")
    if evaluation.num_envs > evaluation.episodes:
        raise UserError(f"agent_evaluation.num_envs={evaluation.num_envs}: more than agent_evaluation.episodes={evaluation.episodes}")
    if agent.model_free and agent.steps_per_epoch < config.actor_critic.steps_per_update:
        raise UserError(
            f"agent.steps_per_epoch={agent.steps_per_epoch}: an update of the model-free agent takes "
            f"actor_critic.steps_per_update={config.actor_critic.steps_per_update} steps"
        )
    if config.actor_critic.observations == "reconstructions" and not agent.model_free:
        _check_reconstructions(config)
    named, start_frames = _start_frames(config), config.actor_critic.start_frames
    if 0 < start_frames < named[1]:
        raise UserError(f"actor_critic.start_frames={start_frames}: fewer than {named[0]}={named[1]}; 0 takes as many")
    key, burnt_in = max(named, ("actor_critic.start_frames", start_frames), key=lambda item: item[1])
    if config.reward_end.segment_length <= burnt_in and not predicts_outcomes(config):
        raise UserError(
            f"reward_end.segment_length={config.reward_end.segment_length}: must be longer than {key}={burnt_in}, on which its state is "
            "burnt in"
        )


def _start_frames(config: RunConfig) -> tuple[str, int]:
    """The number of frames that the world model needs to start from, and the key that sets it."""
    if config.family is None or not world_family(config.family).trained:
        return "conditioning.num_frames", config.conditioning.num_frames
    return f"frames that family={config.family.name} predicts from", world_family(config.family).context(config.family)
