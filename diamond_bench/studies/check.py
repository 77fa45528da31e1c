"""Refusals at planning: settings that are each valid but do not fit together. No torch."""

from collections.abc import Sequence

from diamond_bench.config import RunConfig
from diamond_bench.diffusion.schedules import check_sampler
from diamond_bench.envs.family import Truth
from diamond_bench.envs.games import check_env, check_policy, games_with, object_names, truth
from diamond_bench.envs.games import frames as frames_of
from diamond_bench.errors import UserError, nearest
from diamond_bench.models.shape import check_actor_critic, check_guidance, check_network, check_reward_end
from diamond_bench.spaces import FrameSpec
from diamond_bench.studies.agents import check_agent, is_agent
from diamond_bench.studies.metrics import METRICS

LEAST_FID_IMAGES = 2048
LEAST_LPIPS_SIZE = 32
"""Frames smaller than this vanish in AlexNet and VGG16."""
MOST_SEED = 2**63 - 1


def check_run(config: RunConfig, protocol: str = "world_model") -> None:
    """Raises UserError naming the first pair of settings that cannot go together."""
    check_network(config.network, config.conditioning)
    check_guidance(config.sampler, config.conditioning)
    _check_seeds(config)
    check_env(config.game if config.data.dataset is None else None, config.env)
    _check_streams(config, protocol)
    if protocol == "agent":
        check_reward_end(config.reward_end, config.env.frame_size)
        check_actor_critic(config.actor_critic, config.env.frame_size)
        check_agent(config)
        check_sampler(config.sampler, config.objective)
        return
    _check_training(config)
    _check_evaluation(config)
    check_sampler(config.sampler, config.objective)
    if config.data.dataset is None and not is_agent(config.data.policy):
        check_policy(config.data.policy, config.game)


def _check_streams(config: RunConfig, protocol: str) -> None:
    """More groups than games would be fewer, under the name of more."""
    streams, key, games = config.execution.sampling_streams, "actor_critic.batch_size", config.actor_critic.batch_size
    if protocol != "agent":
        key, games = "evaluation.batch_size", min(config.evaluation.batch_size, config.evaluation.num_trajectories)
    if streams > games:
        raise UserError(f"execution.sampling_streams={streams}: {games} games are imagined at once ({key}), and a group has one at least")


def _check_seeds(config: RunConfig) -> None:
    for key, seed in (
        ("seeds", config.seed),
        ("data.seed", config.data.seed),
        ("evaluation.seed", config.evaluation.seed),
        ("agent_evaluation.seed", config.agent_evaluation.seed),
    ):
        if seed > MOST_SEED:
            raise UserError(f"{key}={seed}: a seed is at most {MOST_SEED}")


def _check_training(config: RunConfig) -> None:
    milestones = config.training.milestones
    if list(milestones) != sorted(set(milestones)) or milestones[-1] != 1.0 or milestones[0] <= 0:
        raise UserError(f"training.milestones={list(milestones)}: must rise from above 0 to 1, such as [0.25,0.5,1.0]")
    if config.evaluation.milestone not in milestones:
        kept = ", ".join(map(str, milestones))
        raise UserError(f"evaluation.milestone={config.evaluation.milestone}: the training keeps models at {kept} (training.milestones)")
    segment = config.conditioning.num_frames + 1 + config.training.num_autoregressive_steps
    if segment > config.data.num_train_frames:
        raise UserError(f"data.num_train_frames={config.data.num_train_frames}: a training segment alone has {segment} frames")


def _check_evaluation(config: RunConfig) -> None:
    evaluation, data = config.evaluation, config.data
    frames = frames_of(config.game, config.env) if data.dataset is None else FrameSpec.square(config.env.frame_size)
    if evaluation.world_model is not None and evaluation.milestone != 1.0:
        raise UserError(f"evaluation.milestone={evaluation.milestone}: an agent (evaluation.world_model) keeps only its final world model")
    for metric in evaluation.metrics:
        if metric not in METRICS:
            raise UserError(f"metrics: unknown metric {metric!r}: {nearest(metric, METRICS)}")
        if evaluation.metrics.count(metric) > 1:
            raise UserError(f"metrics: {metric} is given twice")
        if metric.startswith("lpips") and min(frames.sides) < LEAST_LPIPS_SIZE:
            raise UserError(
                f"env.frame_size={config.env.frame_size}: {metric} needs frames of at least {LEAST_LPIPS_SIZE} pixels, and these are "
                f"{frames}; raise it, or leave {metric} out with {_without(evaluation.metrics, 'lpips')}"
            )
    if "modes" in evaluation.metrics:
        _check_modes(config)
    if "state" in evaluation.metrics:
        _check_state(config)
    _at_most("conditioning.num_frames", config.conditioning.num_frames, "data.reference_context", data.reference_context)
    _at_most("evaluation.horizon", evaluation.horizon, "data.reference_horizon", data.reference_horizon)
    _at_most("evaluation.sample_horizon", evaluation.sample_horizon, "data.reference_horizon", data.reference_horizon)
    _at_most("evaluation.num_trajectories", evaluation.num_trajectories, "data.num_references", data.num_references)
    _at_most("evaluation.num_sample_starts", evaluation.num_sample_starts, "data.num_references", data.num_references)
    imagined = evaluation.num_trajectories * evaluation.horizon
    if "fid" not in evaluation.metrics:
        return
    without_fid = _without(evaluation.metrics, "fid")
    if evaluation.num_fid_images < LEAST_FID_IMAGES:
        raise UserError(
            f"evaluation.num_fid_images={evaluation.num_fid_images}: FID needs at least {LEAST_FID_IMAGES} images "
            f"(with fewer, the covariance of its 2048 features is singular); raise it, or leave FID out with {without_fid}"
        )
    if evaluation.num_fid_images > data.num_train_frames:
        raise UserError(
            f"evaluation.num_fid_images={evaluation.num_fid_images}: the floor of FID takes as many frames of the training data, "
            f"which has {data.num_train_frames} (data.num_train_frames); raise that, or leave FID out with {without_fid}"
        )
    if evaluation.num_fid_images > imagined:
        mend = "lower it" if imagined >= LEAST_FID_IMAGES else "raise evaluation.num_trajectories or evaluation.horizon"
        raise UserError(
            f"evaluation.num_fid_images={evaluation.num_fid_images}: {evaluation.num_trajectories} trajectories of {evaluation.horizon} "
            f"frames give {imagined}; {mend}, or leave FID out with {without_fid}"
        )


def _without(metrics: Sequence[str], name: str) -> str:
    """The override that measures the same without one metric and its variants; drift, which costs nothing, where no other is left."""
    return f"metrics=[{','.join(metric for metric in metrics if not metric.startswith(name)) or 'drift'}]"


def _check_modes(config: RunConfig) -> None:
    known = truth(config.game) if config.data.dataset is None else Truth()
    if known.next_frames is None:
        whose = config.game if config.data.dataset is None else f"your dataset {config.data.dataset}"
        games = ",".join(games_with(lambda truth: truth.next_frames))
        raise UserError(
            f"metrics: modes needs the true distribution of the next frame, which nobody knows of {whose}; it is known of "
            f"games=[{games}]; or leave it out with {_without(config.evaluation.metrics, 'modes')}"
        )
    if config.env.minority_share == 0:
        raise UserError("env.minority_share=0.0: the metric modes needs frames that can go two ways; set it above 0")
    if config.data.reference_context < known.past_frames:
        raise UserError(
            f"data.reference_context={config.data.reference_context}: the state of {config.game} is read from {known.past_frames} "
            f"frames; raise it"
        )


def _check_state(config: RunConfig) -> None:
    if config.data.dataset is not None:
        raise UserError(
            f"metrics: state needs the console's memory at each frame, and your dataset {config.data.dataset} is not known to hold it; "
            f"leave state out of metrics, or collect a dataset here (data.dataset=null)"
        )
    object_names(config.game)
    if config.probe.seed > MOST_SEED:
        raise UserError(f"probe.seed={config.probe.seed}: a seed is at most {MOST_SEED}")


def _at_most(key: str, value: int, limit_key: str, limit: int) -> None:
    if value > limit:
        raise UserError(f"{key}={value}: more than the data holds ({limit_key}={limit}); lower the one or raise the other")
