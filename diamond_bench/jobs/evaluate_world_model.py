"""The job `evaluate_world_model`: held-out trajectories imagined by a trained world model, measured against the true ones.

References, starts and noise depend on the dataset and `evaluation.seed` alone, so all variants of a study face the same ones.
"""

import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.media import side_by_side, write_video
from analysis.pixels import noise_level, sharpness
from diamond_bench.agent import DENOISER_FOLDER
from diamond_bench.config import EvaluationConfig
from diamond_bench.data.references import Windows, one_step_windows, reference_windows
from diamond_bench.data.static import EpisodeSet, load_info, load_split
from diamond_bench.evaluation.measures import Metrics, copy_last, frame_errors, one_step_errors, sample_errors
from diamond_bench.evaluation.modes import Forks, find_forks, fork_samples, mode_rows
from diamond_bench.evaluation.perceptual import inception_features, lpips_network
from diamond_bench.evaluation.proper_scores import score_rows
from diamond_bench.evaluation.rollouts import (
    MODES_STREAM,
    ONE_STEP_STREAM,
    ROLLOUT_STREAM,
    SAMPLES_STREAM,
    Key,
    imagine,
    stretch,
    unit,
)
from diamond_bench.evaluation.state import StateMeter, make_state_meter, state_rows
from diamond_bench.evaluation.state_scores import state_score_rows, state_scores
from diamond_bench.evaluation.summary import fid_rows, one_step_rows, rollout_rows, sample_rows
from diamond_bench.jobs.context import JobContext, Result, Row
from diamond_bench.jobs.execution import Execution, apply_to_world_model, facts_of, resolve
from diamond_bench.jobs.extract_features import fid_positions, load_features
from diamond_bench.jobs.memory import peak_bytes, reset_peak
from diamond_bench.jobs.parts import Arrays, Parts, join, save_arrays
from diamond_bench.jobs.train_world_model import model_folder
from diamond_bench.models.graphs import Graphed
from diamond_bench.models.shape import IMAGE_CHANNELS
from diamond_bench.store.kinds import EvaluateWorldModel
from diamond_bench.studies.agents import AGENT_FOLDER
from diamond_bench.studies.baselines import COPY_LAST, STATE_PROBE, UNRELATED
from diamond_bench.training.checkpoint import made_on
from diamond_bench.worlds.contract import TrainedWorld, WorldModel
from diamond_bench.worlds.families import load_world_model

PICTURED = 4
"""Trajectories whose frames are kept for pictures and the video."""
_VIDEO_FRAMES = 300
_LPIPS: dict[str, Literal["alex", "vgg"]] = {"lpips": "alex", "lpips_vgg": "vgg"}
_ONE_STEP_BATCH = 64
_FEATURE_BATCH = 64


@dataclass(frozen=True)
class _Work:
    """What all parts share."""

    config: EvaluateWorldModel
    parts: Parts
    world: WorldModel
    metrics: Metrics
    references: Windows
    one_step: Windows
    fid_positions: NDArray[np.bool_]
    """(num_trajectories, horizon): the frames that enter FID."""
    forks: Forks | None
    """Where the metric modes is asked for."""
    meter: StateMeter | None
    """Where the metric state is asked for."""

    @property
    def settings(self) -> EvaluationConfig:
        return self.config.evaluation


def run(config: EvaluateWorldModel, context: JobContext) -> Result:
    """Writes arrays.npz (every trajectory's errors at every t), media/ and the rows of the results table.

    Raises Interrupted with the finished parts kept; UserError where references, weights or the model cannot be had.
    """
    device = torch.device(context.device)
    reset_peak(device)
    train = load_split(context.inputs["dataset"], "train")
    work, facts = _prepare(config, context, train, device)
    rolled = join([_rollout(work, rows) for rows in _batches(work.settings.num_trajectories, work.settings.batch_size)])
    baselines = join([_baselines(work, rows) for rows in _batches(work.settings.num_trajectories, work.settings.batch_size)])
    ahead = join([_one_step(work, rows) for rows in _batches(len(work.one_step), _ONE_STEP_BATCH)])
    sampled = join([_samples(work, rows) for rows in _batches(work.settings.num_sample_starts, _starts_a_batch(work.settings))])

    names = work.metrics.names
    rows = [
        *rollout_rows(names, {**rolled, **{name: baselines[name] for name in ("true_sharpness", "true_noise")}}),
        *one_step_rows(ahead),
        *sample_rows(names, sampled),
        *score_rows(sampled),
    ]
    for prefix, baseline in (("copy_", COPY_LAST), ("unrelated_", UNRELATED)):
        if f"{prefix}drift" not in baselines:  # of one reference, no other one is unrelated
            continue
        rows += rollout_rows(names, {name.removeprefix(prefix): v for name, v in baselines.items() if name.startswith(prefix)}, baseline)
    if work.meter is not None:
        for prefix, predictor in (("", ""), ("copy_", COPY_LAST), ("true_", STATE_PROBE)):
            of_prefix = {name.removeprefix(prefix): v for name, v in {**rolled, **baselines}.items() if name.startswith(f"{prefix}state_")}
            rows += state_rows(of_prefix, predictor)
        rows += state_score_rows(sampled)
    forked = join([_modes(work, work.forks, chosen) for chosen in _fork_batches(work)]) if work.forks is not None else {}
    rows += mode_rows(forked) if forked else []
    if work.metrics.features is not None:
        true_features = load_features(context.inputs["true_features"], facts["weights"]["fid"])
        rows += fid_rows(rolled["features"], *true_features, seed=work.settings.seed)
    seconds, frames = float(rolled["seconds"].sum()), rolled["drift"].size
    rows += _cost_rows(work, frames / seconds, seconds, device)

    context.check_owner()
    shape = rolled["drift"].shape
    curves = {name: values.astype(np.float32) for name, values in {**rolled, **baselines}.items() if values.shape == shape}
    curves |= {name: values.astype(np.float32) for name, values in forked.items()}
    for name, values in sampled.items():
        prefix = next((start for start in ("copy_", "true_") if name.startswith(start)), "")
        kept = values.astype(np.float32) if values.dtype.kind == "f" else values
        curves[f"{prefix}samples_{name.removeprefix(prefix)}"] = kept
    save_arrays(context.folder / "arrays.npz", curves | _episodes(work))
    _keep_frames(work, rolled["frames"], context.folder)
    return Result(rows, {**facts, "work": work.world.flops_per_frame * frames, "work_seconds": seconds})


def _prepare(config: EvaluateWorldModel, context: JobContext, train: EpisodeSet, device: torch.device) -> tuple[_Work, dict[str, Any]]:
    settings, dataset = config.evaluation, context.inputs["dataset"]
    context.progress(0, 1, "loading the model and the references")
    folder, spec = _model_folder(context.inputs["world_model"], settings.milestone), load_info(dataset).spec
    loaded = load_world_model(folder, spec.frames, config.execution.precision, device, spec.actions).bound(config.sampler)
    distances = {name: lpips_network(net, device) for name, net in _LPIPS.items() if name in settings.metrics}
    inception = {"fid": inception_features(device)} if "fid" in settings.metrics else {}
    networks = {**distances, **inception}
    metrics = Metrics(settings.metrics, distances, inception.get("fid"))
    info = load_info(dataset).content
    layout = info["heldout"]
    heldout = load_split(dataset, "heldout")
    num = max(settings.num_trajectories, settings.num_sample_starts)
    starts, window = layout["reference_starts"], (layout["reference_context"], layout["reference_horizon"])
    references = reference_windows(heldout, num, *window, seed=settings.seed, starts=starts)
    one_step = one_step_windows(
        reference_windows(heldout, len(starts), *window, settings.seed, starts=starts), settings.num_one_step, settings.seed
    )
    forks = find_forks(one_step, info) if "modes" in settings.metrics else None
    on_device = heldout.to(device)
    on_references = replace(references, episodes=on_device, first=references.first.to(device))
    meter = make_state_meter(context.inputs["state_probe"], dataset, on_references) if "state" in settings.metrics else None
    world, execution = _executed(loaded, config, len(one_step), device)
    work = _Work(
        config,
        Parts(
            context,
            _ticks(settings, len(one_step)) + len(_batches(len(forks or ()), _starts_a_batch(settings))),
            made_on(device.type, execution.compile),
        ),
        world,
        metrics,
        on_references,
        replace(one_step, episodes=on_device, first=one_step.first.to(device)),
        fid_positions(settings.seed, settings.num_trajectories, settings.horizon, settings.num_fid_images),
        None if forks is None else replace(forks, windows=replace(forks.windows, episodes=on_device, first=forks.windows.first.to(device))),
        meter,
    )
    facts = {
        "references": settings.num_trajectories,
        "reference_episodes": len(np.unique(references.episode_numbers()[: settings.num_trajectories])),
        "references_refused_as_leaks": layout["refused_as_leaks"],
        "lost_life": "a reference may run across lost lives, never past the end of its game",
        "horizon": settings.horizon,
        "one_step_windows": len(one_step),
        "samples_per_start": settings.num_samples,
        "weights": {name: network.sha256 for name, network in networks.items()},
        "execution": facts_of(execution),
    }
    return work, facts


def _executed(loaded: TrainedWorld, config: EvaluateWorldModel, num_windows: int, device: torch.device) -> tuple[WorldModel, Execution]:
    """The model as `execution` asks for it: full batches of the rollouts compiled and recorded, before any of them is timed."""
    settings = config.evaluation
    frames = settings.num_trajectories * settings.horizon + num_windows
    frames += settings.num_sample_starts * settings.num_samples * settings.sample_horizon
    execution = resolve(config.execution, device, loaded.flops_per_frame * frames)
    if execution == Execution():
        return loaded, execution
    b = min(settings.batch_size, settings.num_trajectories)
    world = apply_to_world_model(execution, loaded, b)
    past = torch.zeros(b, world.context, IMAGE_CHANNELS, *world.spec.frames.sides, device=device)
    taken = world.spec.actions
    actions = torch.zeros(b, world.context, *taken.shape, dtype=getattr(torch, taken.dtype), device=device)
    state = world.start(past, actions, past.new_ones(past.shape[:2], dtype=torch.bool), torch.zeros_like)
    for _ in range(Graphed.WARM_UP + 2):
        world.step(state, actions[:, 0], torch.zeros_like)
    return world, execution


def _model_folder(made_by: Path, milestone: float) -> Path:
    """The world model in a training's folder, or in that of an agent."""
    return made_by / AGENT_FOLDER / DENOISER_FOLDER if (made_by / AGENT_FOLDER).is_dir() else model_folder(made_by, milestone)


def _batches(total: int, size: int) -> list[range]:
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def _starts_a_batch(settings: EvaluationConfig) -> int:
    return max(1, settings.batch_size // settings.num_samples)


def _ticks(settings: EvaluationConfig, one_step: int) -> int:
    """Progress of the whole job: a tick an imagined batch of frames, and one a batch of features."""
    rollouts = len(_batches(settings.num_trajectories, settings.batch_size)) * (settings.horizon + 1)
    samples = len(_batches(settings.num_sample_starts, _starts_a_batch(settings))) * settings.sample_horizon
    features = -(-settings.num_fid_images // _FEATURE_BATCH) if "fid" in settings.metrics else 0
    return rollouts + samples + len(_batches(one_step, _ONE_STEP_BATCH)) + features


def _rollout(work: _Work, rows: range) -> Arrays:
    """A batch of references imagined to the horizon and measured; also seconds, kept frames and features for FID."""

    def compute() -> Arrays:
        play = stretch(work.references, rows, work.settings.horizon)
        keys: list[Key] = [(work.settings.seed, ROLLOUT_STREAM, i) for i in rows]
        started = time.perf_counter()
        imagined = imagine(work.world, play, keys, work.parts.tick)
        if imagined.is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        kept = len(rows) if work.settings.keep_frames else max(0, min(rows.stop, PICTURED) - rows.start)
        extra = {"seconds": np.array([seconds]), "frames": imagined[:kept].cpu().numpy()}
        if work.metrics.features is not None:
            chosen = torch.from_numpy(work.fid_positions[rows.start : rows.stop]).to(imagined.device)
            extra["features"] = _features(work, imagined[chosen])
        states = {} if work.meter is None else work.meter.errors(imagined, rows, work.settings.horizon)
        return frame_errors(work.metrics, imagined, play.true) | states | extra

    return work.parts.get(f"rollout-{rows.start:06d}", "imagining references", work.settings.horizon, compute)


def _baselines(work: _Work, rows: range) -> Arrays:
    """The same errors of copying the last frame and of unrelated true frames, and the true frames' sharpness and noise."""

    def compute() -> Arrays:
        play = stretch(work.references, rows, work.settings.horizon)
        found = {f"copy_{name}": v for name, v in frame_errors(work.metrics, copy_last(play), play.true).items()}
        if work.settings.num_trajectories > 1:
            others = stretch(work.references, [(i + 1) % work.settings.num_trajectories for i in rows], work.settings.horizon)
            found |= {f"unrelated_{name}": v for name, v in frame_errors(work.metrics, others.true, play.true).items()}
        if work.meter is not None:
            for prefix, frames in (("copy_", copy_last(play)[:, :1]), ("true_", play.true)):
                errors = work.meter.errors(frames, rows, work.settings.horizon)
                found |= {f"{prefix}{name}": v for name, v in errors.items()}
        work.parts.tick()
        for name, measure in {"sharpness": sharpness, "noise": noise_level}.items():
            true = torch.stack([measure(unit(row)) for row in play.true])
            found[f"true_{name}"] = true.double().cpu().numpy()
        return found

    return work.parts.get(f"baselines-{rows.start:06d}", "measuring baselines", 1, compute)


def _one_step(work: _Work, rows: range) -> Arrays:
    def compute() -> Arrays:
        keys: list[Key] = [(work.settings.seed, ONE_STEP_STREAM, i) for i in rows]
        return one_step_errors(work.world, stretch(work.one_step, rows, 1), keys, work.parts.tick)

    return work.parts.get(f"one-step-{rows.start:06d}", "predicting one step", 1, compute)


def _samples(work: _Work, rows: range) -> Arrays:
    def compute() -> Arrays:
        keys: list[Key] = [(work.settings.seed, SAMPLES_STREAM, i, k) for i in rows for k in range(work.settings.num_samples)]
        play = stretch(work.references, rows, work.settings.sample_horizon)
        states, k = None, work.settings.num_samples
        if work.meter is not None:
            states = partial(state_scores, work.meter, play=play, rows=rows, keys=keys[::k])
        return sample_errors(work.world, work.metrics, play, keys, k, work.parts.tick, states)

    return work.parts.get(f"samples-{rows.start:06d}", "sampling futures", work.settings.sample_horizon, compute)


def _fork_batches(work: _Work) -> list[range]:
    return _batches(len(work.forks or ()), _starts_a_batch(work.settings))


def _modes(work: _Work, forks: Forks, rows: range) -> Arrays:
    def compute() -> Arrays:
        keys: list[Key] = [(work.settings.seed, MODES_STREAM, i, k) for i in rows for k in range(work.settings.num_samples)]
        return fork_samples(work.world, forks, rows, keys, work.parts.tick)

    return work.parts.get(f"modes-{rows.start:06d}", "sampling next frames", 1, compute)


def _episodes(work: _Work) -> Arrays:
    """Number of the held-out episode that each reference, sample start and fork comes from: what resampling by episode needs."""
    numbers = work.references.episode_numbers()
    found: Arrays = {"episodes": numbers[: work.settings.num_trajectories], "sample_episodes": numbers[: work.settings.num_sample_starts]}
    return found if work.forks is None else found | {"fork_episodes": work.forks.windows.episode_numbers()}


def _features(work: _Work, frames: torch.Tensor) -> NDArray[np.float32]:
    assert work.metrics.features is not None
    out = []
    for batch in frames.split(_FEATURE_BATCH):
        out.append(work.metrics.features(batch).float().cpu().numpy())
        work.parts.tick()
    return np.concatenate(out) if out else np.zeros((0, 2048), np.float32)


def _cost_rows(work: _Work, frames_per_second: float, seconds: float, device: torch.device) -> list[Row]:
    trained = sum(weights.numel() for network in work.world.networks.values() for weights in network.parameters())
    return [
        Row("nfe_per_frame", float(work.world.calls_per_frame)),
        Row("parameters", float(trained)),
        Row("frames_per_second", frames_per_second, measured=True),
        Row("imagination_seconds", seconds, measured=True),
        Row("peak_memory_mb", peak_bytes(device) / 1e6, measured=True),
    ]


def _keep_frames(work: _Work, frames: NDArray[np.uint8], folder: Path) -> None:
    """media/frames.npz (true and imagined, (PICTURED, horizon, h, w, 3)), media/rollout.mp4 and, where asked for, frames.npy."""
    media = folder / "media"
    shutil.rmtree(media, ignore_errors=True)
    media.mkdir()
    pictured = range(min(PICTURED, work.settings.num_trajectories))
    true = stretch(work.references, pictured, work.settings.horizon).true.cpu().numpy().transpose(0, 1, 3, 4, 2)
    imagined = frames[:PICTURED].transpose(0, 1, 3, 4, 2)
    save_arrays(media / "frames.npz", {"true": true, "imagined": imagined}, compressed=True)
    write_video(side_by_side(list(true[:, :_VIDEO_FRAMES]), list(imagined[:, :_VIDEO_FRAMES])), media / "rollout.mp4")
    if work.settings.keep_frames:
        np.save(folder / "frames.npy", frames)
