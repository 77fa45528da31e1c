"""The cost of `evaluate_world_model`: imagined frames, and the metrics on them."""

from diamond_bench.config import world_family
from diamond_bench.costs import frames_of
from diamond_bench.costs.world_model import World, arithmetic, frame_flops, start_flops
from diamond_bench.diffusion.schedules import nfe
from diamond_bench.metrics.header import ALTERED_FRAMES, ESTIMATE_LEVELS, ESTIMATED_WINDOWS, PICTURED, held_frames, sampled_frames
from diamond_bench.metrics.planning import measures, measuring_seconds, part_bytes
from diamond_bench.store.cost import Arithmetic, Inputs, JobCost
from diamond_bench.store.kinds import EvaluateWorldModel

_GPU_SPEEDUP = 50.0
"""Speed of a GPU relative to two CPU cores, for the networks of the metrics."""
_CURVES = 16
"""Number of arrays of (trajectories, t), float32, that an evaluation keeps."""


def _work(config: EvaluateWorldModel, inputs: Inputs) -> float:
    if config.given is not None:
        return float(_imagined(config, inputs))
    world, frames = _world(config, inputs), frames_of(inputs["dataset"])
    flops = frame_flops(world, config.sampler, frames)
    begun = start_flops(world, frames) * _starts(config, inputs)
    return (flops or 1.0) * (_imagined(config, inputs) + _estimated(config, inputs)) + begun  # without a network, frames are counted


def _starts(config: EvaluateWorldModel, inputs: Inputs) -> int:
    """Number of imagined games. For forks it is the maximum."""
    evaluation, windows = config.evaluation, _num_windows(config, inputs)
    of_references = 1 + measures(evaluation.metrics, "altered") + 2 * measures(evaluation.metrics, "outcomes")
    samples = evaluation.num_sample_starts * (evaluation.num_samples + 2 * measures(evaluation.metrics, "held"))
    forks = windows * evaluation.num_samples if measures(evaluation.metrics, "forks") else 0
    return evaluation.num_trajectories * of_references + windows + samples + forks


def _estimated(config: EvaluateWorldModel, inputs: Inputs) -> float:
    """Frames that cost as much as the estimates of clean frames, each of which is one network call."""
    if not measures(config.evaluation.metrics, "estimates"):
        return 0.0
    slots = 1 + world_family(config.family).context(_world(config, inputs))
    return min(_num_windows(config, inputs), ESTIMATED_WINDOWS) * slots * len(ESTIMATE_LEVELS) / nfe(config.sampler)


def _world(config: EvaluateWorldModel, inputs: Inputs) -> World:
    return config.family or inputs["world_model"]


def _imagined(config: EvaluateWorldModel, inputs: Inputs) -> int:
    """Frames of all play. For forks it is the maximum, since only some windows fork."""
    evaluation, windows = config.evaluation, _num_windows(config, inputs)
    forks = windows * evaluation.num_samples if measures(evaluation.metrics, "forks") else 0
    altered = evaluation.num_trajectories * ALTERED_FRAMES if measures(evaluation.metrics, "altered") else 0
    outcomes = 2 * evaluation.num_trajectories * evaluation.horizon if measures(evaluation.metrics, "outcomes") else 0
    held = 2 * evaluation.num_sample_starts * held_frames(evaluation) if measures(evaluation.metrics, "held") else 0
    return evaluation.num_trajectories * evaluation.horizon + windows + sampled_frames(evaluation) + forks + altered + held + outcomes


def _num_windows(config: EvaluateWorldModel, inputs: Inputs) -> int:
    """Number of predicted one-step windows: as many as configured (0 means all) of those that end in the references' horizons."""
    data = inputs["dataset"].data
    there = int(data.num_references * data.reference_horizon)
    return min(config.evaluation.num_one_step, there) or there


def _fixed_seconds(config: EvaluateWorldModel, device: str) -> float:
    """Includes the time in the metrics."""
    return 4.0 + measuring_seconds(config.evaluation) / (_GPU_SPEEDUP if device == "cuda" else 1.0)


def _disk(config: EvaluateWorldModel, inputs: Inputs) -> float:
    evaluation, pixels = config.evaluation, frames_of(inputs["dataset"]).pixels
    steps = evaluation.num_trajectories * evaluation.horizon
    pictures = min(PICTURED, evaluation.num_trajectories) * evaluation.horizon * 3 * pixels  # true and imagined, compressed, and a video
    kept = 3 * pixels * _imagined(config, inputs) if evaluation.keep_frames else 0
    return float(steps * _CURVES * 4 + kept + pictures)


def _passing_disk(config: EvaluateWorldModel, inputs: Inputs) -> float:
    """The finished parts of metrics, such as features of imagined frames."""
    return part_bytes(config.evaluation)


def _arithmetic(config: EvaluateWorldModel, inputs: Inputs) -> Arithmetic:
    return Arithmetic() if config.given is not None else arithmetic(_world(config, inputs), config.execution)


COST = JobCost(
    work=_work,
    arithmetic=_arithmetic,
    fixed_seconds=_fixed_seconds,
    disk=_disk,
    passing_disk=_passing_disk,
)
