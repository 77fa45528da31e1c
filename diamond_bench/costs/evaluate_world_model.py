"""The cost of `evaluate_world_model`: imagined frames, and the metrics on them."""

from diamond_bench.costs import frames_of
from diamond_bench.costs.extract_features import FEATURE_BYTES
from diamond_bench.costs.world_model import arithmetic, frame_flops
from diamond_bench.store.cost import Inputs, JobCost
from diamond_bench.store.kinds import EvaluateWorldModel

_PAIRS_PER_SECOND = {"ssim": 5000.0, "state": 2000.0, "lpips": 1500.0, "lpips_vgg": 100.0}
"""Pairs of 64 x 64 frames compared per second on two CPU cores; orders of magnitude."""
_FID_IMAGES_PER_SECOND = 9.0
_GPU_SPEEDUP = 50.0
"""How much faster than two CPU cores a GPU runs the networks of the metrics."""
_CURVES = 16
"""Arrays of (trajectories, t) that an evaluation keeps, float32."""
_PICTURED = 4
"""Trajectories whose frames every evaluation keeps."""


def _work(config: EvaluateWorldModel, inputs: Inputs) -> float:
    evaluation = config.evaluation
    sampled = evaluation.num_sample_starts * evaluation.num_samples * evaluation.sample_horizon
    windows = _num_windows(config, inputs)
    if "modes" in evaluation.metrics:
        sampled += windows * evaluation.num_samples  # at most: those where the game goes two ways
    imagined = evaluation.num_trajectories * evaluation.horizon + windows + sampled
    return frame_flops(inputs["world_model"], config.sampler, frames_of(inputs["dataset"])) * imagined


def _num_windows(config: EvaluateWorldModel, inputs: Inputs) -> int:
    """One-step windows that are predicted: as many as asked for, 0 for all, of those that end in the references' horizons."""
    data = inputs["dataset"].data
    there = int(data.num_references * data.reference_horizon)
    return min(config.evaluation.num_one_step, there) or there


def _fixed_seconds(config: EvaluateWorldModel, device: str) -> float:
    """Also the time in the metrics: the model and two baselines against the true frames, the samples, and the images for FID."""
    evaluation = config.evaluation
    samples = evaluation.num_sample_starts * evaluation.num_samples * evaluation.sample_horizon
    pairs = 3 * evaluation.num_trajectories * evaluation.horizon + samples
    seconds = sum(pairs / rate for metric, rate in _PAIRS_PER_SECOND.items() if metric in evaluation.metrics)
    if "lpips" in evaluation.metrics:  # pairs of samples, for the energy score
        seconds += samples * (evaluation.num_samples - 1) / 2 / _PAIRS_PER_SECOND["lpips"]
    if "fid" in evaluation.metrics:
        seconds += evaluation.num_fid_images / _FID_IMAGES_PER_SECOND
    return 4.0 + seconds / (_GPU_SPEEDUP if device == "cuda" else 1.0)


def _disk(config: EvaluateWorldModel, inputs: Inputs) -> float:
    evaluation, pixels = config.evaluation, frames_of(inputs["dataset"]).pixels
    steps = evaluation.num_trajectories * evaluation.horizon
    pictures = min(_PICTURED, evaluation.num_trajectories) * evaluation.horizon * 3 * pixels  # true and imagined, compressed, and a video
    return float(steps * (_CURVES * 4 + (3 * pixels if evaluation.keep_frames else 0)) + pictures)


def _passing_disk(config: EvaluateWorldModel, inputs: Inputs) -> float:
    """Features of imagined frames in finished parts."""
    return float(FEATURE_BYTES * config.evaluation.num_fid_images) if "fid" in config.evaluation.metrics else 0.0


COST = JobCost(
    work=_work,
    arithmetic=lambda config, inputs: arithmetic(inputs["world_model"], config.execution),
    fixed_seconds=_fixed_seconds,
    disk=_disk,
    passing_disk=_passing_disk,
)
