"""Refusals at planning: settings that are valid on their own but conflict. Without torch."""

from diamond_bench.config import OBJECTIVES, SEGMENT_SOURCES, CascadeSampler, OpenLoopSampler, RunConfig, option_of, world_family
from diamond_bench.diffusion.schedules import check_closed_loop, check_sampler, trained_sigma_range
from diamond_bench.envs.games import check_env, check_policy, family_of, spec
from diamond_bench.errors import UserError, nearest
from diamond_bench.metrics.planning import check_metrics
from diamond_bench.models.shape import (
    check_actor_critic,
    check_guidance,
    check_network,
    check_past_noise,
    check_reward_end,
    check_separate,
    check_streams,
)
from diamond_bench.spaces import WorldSpec
from diamond_bench.studies.agents import check_agent, is_agent

MAX_SEED = 2**63 - 1


def check_run(config: RunConfig, protocol: str = "world_model") -> None:
    """Raises UserError with the first conflict between settings."""
    check_network(config.network, config.conditioning)
    check_guidance(config.sampler, config.conditioning)
    _check_coordinate(config)
    _check_seeds(config)
    check_env(config.game if config.data.dataset is None else None, config.env)
    _check_streams(config, protocol)
    if config.execution.encode_past == "once" and option_of(config.objective).function != OBJECTIVES["edm"].function:
        raise UserError(
            f"execution.encode_past=once: objective={config.objective.name} is your own and may scale past frames by the noise level; "
            "use execution.encode_past=every_call"
        )
    if config.network.heads.used:
        _check_heads(config, protocol)
    if protocol == "agent":
        check_reward_end(config.reward_end, config.env.frame_size)
        check_actor_critic(config.actor_critic, config.env.frame_size)
        check_agent(config)
        if config.training.ema is not None:
            raise UserError(f"training.ema={config.training.ema:g}: an agent keeps no average of its weights; use training.ema=null")
        if config.execution.num_processes != 1:
            raise UserError(f"execution.num_processes={config.execution.num_processes}: an agent is trained by one process; use 1")
        if config.training.accumulation != 1:
            raise UserError(
                f"training.accumulation={config.training.accumulation}: an agent's networks learn from one batch per update; use 1"
            )
        _check_sampler(config)
        check_closed_loop(config.sampler, "an agent")
        return
    _check_training(config)
    _check_evaluation(config)
    _check_sampler(config)
    if config.data.dataset is None and not is_agent(config.data.policy):
        check_policy(config.data.policy, config.game)


def _check_sampler(config: RunConfig) -> None:
    """A trained family with its own objectives checks the sampler itself (`WorldFamily.check`)."""
    family, sampler = world_family(config.family), config.sampler
    if isinstance(sampler, CascadeSampler) and not family.two_stages:
        raise UserError(f"sampler={sampler.name}: it has two stages, for family=cascade; choose another one, such as sampler=euler")
    if isinstance(sampler, OpenLoopSampler) and not family.open_loop:
        raise UserError(
            f"sampler={sampler.name}: it denoises the frames of a horizon together, for family=transformer; choose another one, such as "
            "sampler=euler"
        )
    if "objective" in family.reads or not family.trained:
        check_sampler(sampler, config.objective)
        check_past_noise(sampler, config.conditioning)


def _check_streams(config: RunConfig, protocol: str) -> None:
    """With more groups than games there would be fewer groups than the setting says."""
    streams, key, games = config.execution.sampling_streams, "actor_critic.batch_size", config.actor_critic.batch_size
    if protocol != "agent":
        key, games = "evaluation.batch_size", min(config.evaluation.batch_size, config.evaluation.num_trajectories)
    if streams > games:
        raise UserError(f"execution.sampling_streams={streams}: {games} games are imagined at once ({key}), and a group has one at least")


def _check_heads(config: RunConfig, protocol: str) -> None:
    heads, key = config.network.heads, f"network.heads.reads={config.network.heads.reads}"
    check_streams(heads, config.execution.sampling_streams)
    if heads.on_trunk and config.execution.encode_past == "once":
        raise UserError(f"execution.encode_past=once: {key} reads the features of whole calls; use execution.encode_past=every_call")
    game = _spec(config)
    if not (game.rewards or game.ends):
        source = config.game if config.data.dataset is None else f"data.dataset={config.data.dataset}"
        raise UserError(f"{key}: {source} has no rewards and no ends; use network.heads.reads=none")
    if heads.reads == "frames":
        check_separate(heads, game)
    if heads.reads == "frames" and protocol == "agent":
        raise UserError(f"{key}: an agent has that network (reward_end) with network.heads.reads=none; use none")
    if heads.on_trunk and heads.memory and not config.training.num_autoregressive_steps:
        raise UserError(
            f"network.heads.memory={heads.memory}: a segment has one predicted frame, so the memory would learn nothing; set "
            "training.num_autoregressive_steps above 0, or network.heads.memory=0"
        )
    if heads.reads == "extra":
        if config.conditioning.past_noise == "training":
            raise UserError(f"{key}: the extra call has no noise on its past frames (conditioning.past_noise=training); use last")
        low, high = trained_sigma_range(config.objective)
        if not low <= heads.sigma <= high:
            raise UserError(f"network.heads.sigma={heads.sigma:g}: the objective trains levels from {low:g} to {high:g}")


def _spec(config: RunConfig) -> WorldSpec:
    """The frames, actions and outcomes of the run's game, or of the user's own dataset."""
    if config.data.dataset is None:
        return spec(config.game, config.env)
    from diamond_bench.data.foreign import find_dataset
    from diamond_bench.data.foreign_lengths import stated_spec

    return stated_spec(find_dataset(config.data.dataset), config.env.frames)


def _check_coordinate(config: RunConfig) -> None:
    """Refuses the authors' offset noise and truncation if the model predicts changes."""
    objective = config.objective
    if getattr(objective, "coordinate", "frame") != "change":
        return
    needed = {
        "objective.sigma_offset_noise=0": objective.sigma_offset_noise > 0,
        "objective.quantization=round": objective.quantization == "truncate" and config.training.num_autoregressive_steps > 0,
        "sampler.quantization=round": config.sampler.quantization == "truncate",
    }
    if any(needed.values()):
        raise UserError(
            "objective.coordinate=change: offset noise and truncation are larger than most changes of a frame; add "
            + " ".join(override for override, missing in needed.items() if missing)
        )


def _check_seeds(config: RunConfig) -> None:
    for key, seed in (
        ("seeds", config.seed),
        ("data.seed", config.data.seed),
        ("evaluation.seed", config.evaluation.seed),
        ("agent_evaluation.seed", config.agent_evaluation.seed),
        ("probe.seed", config.probe.seed),
        ("inverse_dynamics.seed", config.inverse_dynamics.seed),
    ):
        if seed > MAX_SEED:
            raise UserError(f"{key}={seed}: a seed is at most {MAX_SEED}")


def _check_training(config: RunConfig) -> None:
    milestones = config.training.milestones
    if list(milestones) != sorted(set(milestones)) or milestones[-1] != 1.0 or milestones[0] <= 0:
        raise UserError(f"training.milestones={list(milestones)}: must rise from above 0 to 1, such as [0.25,0.5,1.0]")
    if config.evaluation.milestone not in milestones:
        kept = ", ".join(map(str, milestones))
        raise UserError(f"evaluation.milestone={config.evaluation.milestone}: the training keeps models at {kept} (training.milestones)")
    if config.training.segments not in SEGMENT_SOURCES:
        raise UserError(f"training.segments={config.training.segments!r}: {nearest(config.training.segments, SEGMENT_SOURCES)}")
    parts, processes = config.training.accumulation, config.execution.num_processes
    if parts % processes:
        raise UserError(
            f"execution.num_processes={processes}: the {parts} batches of an update (training.accumulation) cannot be shared equally; use "
            f"training.accumulation={-(-parts // processes) * processes}, or a number of processes that divides {parts}"
        )
    if parts > 1 and config.execution.cuda_graphs == "all":
        raise UserError(
            f"execution.cuda_graphs=all: updates of several batches (training.accumulation={parts}) are not recorded; use imagination"
        )
    _, context = _context(config)
    further = config.training.num_autoregressive_steps if "training.num_autoregressive_steps" in world_family(config.family).reads else 0
    segment = context + 1 + further
    if segment > config.data.num_train_frames:
        raise UserError(f"data.num_train_frames={config.data.num_train_frames}: a training segment alone has {segment} frames")


def _check_evaluation(config: RunConfig) -> None:
    evaluation, data = config.evaluation, config.data
    if evaluation.world_model is not None and evaluation.milestone != 1.0:
        raise UserError(f"evaluation.milestone={evaluation.milestone}: an agent (evaluation.world_model) keeps only its final world model")
    if evaluation.weights == "ema" and evaluation.world_model is not None:
        raise UserError(
            "evaluation.weights=ema: an agent (evaluation.world_model) keeps no average of its weights; use evaluation.weights=last"
        )
    if evaluation.weights == "ema" and config.training.ema is None:
        raise UserError("evaluation.weights=ema: the training keeps no average of its weights; add training.ema=0.999, or another decay")
    _check_references(config)
    check_metrics(config)
    _at_most(*_context(config), "data.reference_context", data.reference_context)
    _at_most("evaluation.horizon", evaluation.horizon, "data.reference_horizon", data.reference_horizon)
    _at_most("evaluation.sample_horizon", evaluation.sample_horizon, "data.reference_horizon", data.reference_horizon)
    _at_most("evaluation.num_trajectories", evaluation.num_trajectories, "data.num_references", data.num_references)
    _at_most("evaluation.num_sample_starts", evaluation.num_sample_starts, "data.num_references", data.num_references)


def _check_references(config: RunConfig) -> None:
    """Refuses references that are longer than any episode of the game."""
    data = config.data
    cut = family_of(config.game).max_steps if data.dataset is None else None
    if cut is not None and data.reference_context + data.reference_horizon > cut + 1:
        most = cut + 1 - data.reference_context
        mend = f"set data.reference_horizon={most} or less" if most >= 1 else "lower data.reference_context"
        raise UserError(
            f"data.reference_horizon={data.reference_horizon}: an episode of {config.game} is cut after {cut} steps, which leaves "
            f"{max(most, 0)} frames after the context (data.reference_context={data.reference_context}); {mend}"
        )


def _context(config: RunConfig) -> tuple[str, int]:
    """Number of past frames that a prediction uses, and a description of it for messages."""
    key = "conditioning.num_frames" if config.family is None else f"frames that family={config.family.name} predicts from"
    return key, world_family(config.family).context(config.family or config)


def _at_most(key: str, value: int, limit_key: str, limit: int) -> None:
    if value > limit:
        raise UserError(f"{key}={value}: more than the data holds ({limit_key}={limit}); lower the one or raise the other")
