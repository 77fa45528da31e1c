"""What a plan would cost: device hours as a range, and disk. From counted arithmetic and the speeds in speed.py."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diamond_bench.data.leaks import SPREAD
from diamond_bench.diffusion.schedules import nfe
from diamond_bench.models.flops import denoiser_flops, denoiser_parameters
from diamond_bench.models.inception_flops import INCEPTION_FLOPS
from diamond_bench.models.probe_flops import LAYERS, probe_flops
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import (
    CollectDataset,
    EvaluateAgent,
    EvaluateWorldModel,
    ExtractFeatures,
    ImportAgent,
    ImportDataset,
    TrainAgent,
    TrainStateProbe,
    TrainWorldModel,
)
from diamond_bench.store.states import JobState
from diamond_bench.studies.agent_cost import agent_bytes, agent_work, num_epochs
from diamond_bench.studies.speed import ASSUMED, START_SECONDS, Like, Speed, fixed_seconds, measured, slowness, unmeasured
from diamond_bench.typed import identity_fields

_PAIRS_PER_SECOND = {"ssim": 5000.0, "state": 2000.0, "lpips": 1500.0, "lpips_vgg": 100.0}
"""Pairs of 64 x 64 frames compared a second on two CPU cores; orders of magnitude."""
_FID_IMAGES_PER_SECOND = 9.0
_GPU_SPEEDUP = 50.0
"""How much faster than two CPU cores a GPU runs the networks of the metrics."""
_MOST_ACTIONS = 18
_OBJECTS = 3
"""Objects of a game with a table (envs/ram_state.py), at most; a state probe's cost hardly depends on them."""
_STEPS_AN_EPISODE = 1000
"""Steps of a test episode: a few hundred in Breakout, a thousand and more in Pong; an order of magnitude."""
_STORED_FRAME = 500 / 64**2
"""Bytes a pixel of a dataset: a compressed frame of 64 x 64 takes about 310 (Breakout), with its memory and action somewhat more."""
_CURVES = 16
"""Arrays of (trajectories, t) that an evaluation keeps, float32."""
_PICTURED = 4
"""Trajectories whose frames every evaluation keeps."""
_FEATURE_BYTES = 2048 * 4


@dataclass(frozen=True)
class Estimate:
    """The cost of jobs still to run, one after the other on one device."""

    jobs: int
    device_hours: float
    """Expected time, between the two that follow."""
    low_hours: float
    high_hours: float
    gigabytes: float
    """Disk taken when all is done."""
    passing_gigabytes: float
    """The most that one job takes besides while it runs, and gives back."""
    basis: str
    """Where the rates come from."""


def estimate(
    specs: Mapping[JobRef, JobSpec], missing: Iterable[JobRef], store: Store, states: Mapping[JobRef, JobState] | None = None
) -> Estimate:
    """Sums what the missing jobs of a plan take, at rates measured in this store or, failing that, assumed.

    `states`: those of the store's jobs, where they are known already.
    """
    todo = [specs[ref] for ref in missing]
    specs = {**specs, **{need: store.spec(need) for spec in todo for need in spec.inputs.values() if need not in specs}}
    likes = [_like(spec, specs) for spec in todo]
    speeds = _measured(set(likes), store, store.states() if states is None and todo else states or {})
    seconds = START_SECONDS * slowness() if todo else 0.0
    low, high, size, passing = seconds / 3, seconds * 3, 0.0, 0.0
    for spec, like in zip(todo, likes, strict=True):
        if like not in speeds:
            speeds[like] = unmeasured(like, _width(spec, specs))
        work, speed = job_work(spec, specs), speeds[like]
        expected = work / speed.rate + speed.fixed * _fixed(spec, like[1])
        seconds += expected
        low += expected / speed.spread(work)
        high += expected * speed.spread(work)
        size += _bytes(spec, specs)
        passing = max(passing, _passing_bytes(spec))
    return Estimate(len(todo), seconds / 3600, low / 3600, high / 3600, size / 1e9, passing / 1e9, _basis(likes, speeds))


def checkpoint_intervals(
    specs: Mapping[JobRef, JobSpec], refs: Iterable[JobRef], store: Store, states: Mapping[JobRef, JobState], on_gpu: Callable[[str], bool]
) -> dict[JobRef, tuple[float, str, str]]:
    """(seconds between two checkpoints, the key that says so, where the rate comes from) of the trainings among `refs`, one of each config.

    `on_gpu` says whether a kind of job runs on a GPU.
    """
    every = {}
    for ref, config in {specs[ref].config: (ref, specs[ref].config) for ref in refs}.values():
        if isinstance(config, TrainWorldModel):
            every[ref] = "training.checkpoint_every", config.training.checkpoint_every, config.training.num_steps
        elif isinstance(config, TrainStateProbe):
            every[ref] = "probe.checkpoint_every", config.probe.checkpoint_every, config.probe.num_steps
        elif isinstance(config, TrainAgent):
            every[ref] = "agent.checkpoint_every", config.agent.checkpoint_every, num_epochs(config)
    likes = {ref: _like(specs[ref], specs, "cuda" if on_gpu(ref.kind) else "cpu") for ref in every}
    speeds = _measured(set(likes.values()), store, states)
    found = {}
    for ref, (key, steps, total) in every.items():
        like = likes[ref]
        speed = speeds.get(like, Speed(ASSUMED[like[1]], 1.0, "assumed"))
        found[ref] = job_work(specs[ref], specs) / speed.rate * min(1.0, steps / total), f"{key}={steps}", _basis([like], {like: speed})
    return found


def _basis(likes: Iterable[Like], speeds: Mapping[Like, Speed]) -> str:
    likes = list(dict.fromkeys(likes))
    words = {
        "measured": "measured on jobs in this store",
        "timed": "from a timing of this machine",
        "assumed": f"assumed ({ASSUMED['cuda']:.0e} FLOP/s on a GPU)",
    }
    if any(like[1] == "cpu" and speeds[like].basis == "assumed" for like in likes):
        words["assumed"] = f"assumed ({ASSUMED['cpu']:.0e} FLOP/s on the CPU)"
    seen = {like[0] for like in likes if speeds[like].basis == "measured"}
    parts = []
    for basis, how in words.items():
        names = {like[0] for like in likes if speeds[like].basis == basis}
        other = {f"{name} of another network or device" if basis != "measured" and name in seen else name for name in names}
        parts += [f"speed of {', '.join(sorted(other))} {how}"] if other else []
    return "; ".join(parts)


def _measured(likes: set[Like], store: Store, states: Mapping[JobRef, JobState]) -> dict[Like, Speed]:
    return measured(likes, store, states, _like, lambda spec: job_work(spec, {}), _fixed)


def _fixed(spec: JobSpec, device: str) -> float:
    """Seconds of a job beside its networks and games, on the reference core: a part that its size does not change, and the metrics."""
    return fixed_seconds(spec.kind) + _metric_seconds(spec, device)


def _width(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> float:
    """Mean channels of the network that a job runs."""
    config = spec.config
    if isinstance(config, TrainStateProbe):
        return config.probe.channels
    if not isinstance(config, (TrainWorldModel, TrainAgent, EvaluateWorldModel)):
        return 64.0
    channels = (config if isinstance(config, TrainAgent) else _training(spec, specs)).network.channels
    return sum(channels) / len(channels)


def time_range(low: float, high: float) -> str:
    """Hours between two values in words, such as "2 to 6 minutes": the lower rounded down and the upper up, to two digits."""
    unit = _unit(high)
    of_low = unit if low * _UNITS[unit] >= 1 else _unit(low)
    least, most = _two_digits(low * _UNITS[of_low], up=False), _two_digits(high * _UNITS[unit], up=True)
    return f"{least:,} to {most:,} {unit}" if of_low == unit else f"{least:,} {of_low} to {most:,} {unit}"


_UNITS = {"seconds": 3600.0, "minutes": 60.0, "hours": 1.0}


def _unit(hours: float) -> str:
    return "seconds" if hours * 3600 < 120 else "minutes" if hours * 60 < 120 else "hours"


def _two_digits(value: float, up: bool) -> int:
    step = 10 ** max(0, math.floor(math.log10(max(1.0, value))) - 1)
    return step * int(math.ceil(value / step) if up else math.floor(value / step))


def job_work(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> float:
    """The work of a job: frames for a dataset or for play, floating-point operations of the networks for all else."""
    config = spec.config
    if isinstance(config, ImportAgent):
        return 0.0
    if isinstance(config, EvaluateAgent):
        return float(config.evaluation.episodes * _STEPS_AN_EPISODE)
    if isinstance(config, TrainAgent):
        return agent_work(config)
    if isinstance(config, (CollectDataset, ImportDataset)):
        data = config.data
        longer = 1.5 if data.windows_per_episode is None else SPREAD
        return data.num_train_frames + data.num_references * (data.reference_context + data.reference_horizon) * longer
    if isinstance(config, TrainStateProbe):
        size = _frame_size(spec, specs)
        return 3 * probe_flops(_OBJECTS, config.probe.channels, (size, size)) * config.probe.batch_size * config.probe.num_steps
    if isinstance(config, ExtractFeatures):
        return 2 * config.num_images * INCEPTION_FLOPS
    training = _training(spec, specs)
    forward = denoiser_flops(training.network, training.conditioning, _frame_size(spec, specs))
    if isinstance(config, TrainWorldModel):
        terms = config.training.num_autoregressive_steps + 1
        return 3 * forward * terms * config.training.batch_size * config.training.num_steps
    assert isinstance(config, EvaluateWorldModel)
    evaluation = config.evaluation
    sampled = evaluation.num_sample_starts * evaluation.num_samples * evaluation.sample_horizon
    windows = _num_windows(evaluation.num_one_step, specs[spec.inputs["dataset"]])
    if "modes" in evaluation.metrics:
        sampled += windows * evaluation.num_samples  # at most: those where the game goes two ways
    return forward * nfe(config.sampler) * (evaluation.num_trajectories * evaluation.horizon + windows + sampled)


def _num_windows(asked: int, dataset: JobSpec) -> int:
    """One-step windows that an evaluation predicts: as many as asked for, 0 for all, of those that end in the references' horizons."""
    data = dataset.config.data
    there = data.num_references * data.reference_horizon
    return min(asked, there) or there


def _metric_seconds(spec: JobSpec, device: str) -> float:
    """Time in the metrics: the model and two baselines against the true frames, the samples, and the imagined images for FID."""
    if not isinstance(spec.config, EvaluateWorldModel):
        return 0.0
    evaluation = spec.config.evaluation
    samples = evaluation.num_sample_starts * evaluation.num_samples * evaluation.sample_horizon
    pairs = 3 * evaluation.num_trajectories * evaluation.horizon + samples
    seconds = sum(pairs / rate for metric, rate in _PAIRS_PER_SECOND.items() if metric in evaluation.metrics)
    if "lpips" in evaluation.metrics:  # pairs of samples, for the energy score
        seconds += samples * (evaluation.num_samples - 1) / 2 / _PAIRS_PER_SECOND["lpips"]
    if "fid" in evaluation.metrics:
        seconds += evaluation.num_fid_images / _FID_IMAGES_PER_SECOND
    return seconds / (_GPU_SPEEDUP if device == "cuda" else 1.0)


def _bytes(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> float:
    config = spec.config
    if isinstance(config, (ImportAgent, EvaluateAgent)):
        return 0.0
    if isinstance(config, TrainStateProbe):
        return 4.0 * config.probe.channels * (5 * 25 + LAYERS * 9 * config.probe.channels)
    if isinstance(config, ExtractFeatures):
        return 2.0 * _FEATURE_BYTES * config.num_images
    if isinstance(config, TrainAgent):
        return agent_bytes(config)
    pixels = _frame_size(spec, specs) ** 2
    if isinstance(config, (CollectDataset, ImportDataset)):
        return job_work(spec, specs) * pixels * _STORED_FRAME
    training = _training(spec, specs)
    weights = 4 * denoiser_parameters(training.network, training.conditioning, _MOST_ACTIONS)
    if isinstance(config, TrainWorldModel):
        return weights * (len(config.training.milestones) + 2 * 3)  # each resumable state holds Adam's two moments too
    assert isinstance(config, EvaluateWorldModel)
    evaluation = config.evaluation
    steps = evaluation.num_trajectories * evaluation.horizon
    pictures = min(_PICTURED, evaluation.num_trajectories) * evaluation.horizon * 3 * pixels  # true and imagined, compressed, and a video
    return steps * (_CURVES * 4 + (3 * pixels if evaluation.keep_frames else 0)) + pictures


def _passing_bytes(spec: JobSpec) -> float:
    """Features of frames in finished parts, which are removed when the job is done."""
    if isinstance(spec.config, ExtractFeatures):
        return 2.0 * _FEATURE_BYTES * spec.config.num_images
    if not isinstance(spec.config, EvaluateWorldModel) or "fid" not in spec.config.evaluation.metrics:
        return 0.0
    return 1.0 * _FEATURE_BYTES * spec.config.evaluation.num_fid_images


def _training(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> TrainWorldModel | TrainAgent:
    """What made the world model that a job trains or evaluates; an imported agent's is taken to be of the paper's size."""
    config = spec.config if isinstance(spec.config, TrainWorldModel) else specs[spec.inputs["world_model"]].config
    return TrainAgent(config.game, 0) if isinstance(config, ImportAgent) else config


def _frame_size(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> int:
    dataset = specs[spec.inputs["dataset"]] if "dataset" in spec.inputs else spec
    return dataset.config.env.frame_size


def _like(spec: JobSpec, specs: Mapping[JobRef, JobSpec], device: str = "") -> Like:
    if isinstance(spec.config, (CollectDataset, ImportDataset, ImportAgent)):
        return spec.kind, "cpu", "", ""
    if isinstance(spec.config, EvaluateAgent):
        return spec.kind, "cpu", "", spec.config.execution.precision
    execution = spec.config.execution
    device = device or execution.device
    if device == "auto":
        device = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
    if isinstance(spec.config, TrainStateProbe):
        network = f"{spec.config.probe.channels} channels"
    elif isinstance(spec.config, ExtractFeatures):
        network = "inception"
    else:
        trained = spec.config if isinstance(spec.config, TrainAgent) else _training(spec, specs)
        network = json.dumps(identity_fields(trained.network), sort_keys=True)
    return spec.kind, device.partition(":")[0] if device.startswith("cuda") else "cpu", network, execution.precision
