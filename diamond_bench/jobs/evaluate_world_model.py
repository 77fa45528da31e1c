"""The job `evaluate_world_model`: a world model imagines held-out trajectories, which are measured against the true ones.

References, starts and noise depend only on the dataset and `evaluation.seed`, so all variants of a study have the same ones. The world
model imagines the frames, or an evaluation that differs only in its metrics has kept them, or they are given (`diamond-bench score`). The
metrics (`metrics/`) then measure each batch, and reduce all batches to rows.
"""

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.media import side_by_side, write_video
from diamond_bench.config import EvaluationConfig
from diamond_bench.data.references import Windows, one_step_windows, reference_windows
from diamond_bench.data.static import EpisodeSet, load_info, load_split
from diamond_bench.evaluation.fixed_actions import as_arrays, fixed_actions, imagine_fixed
from diamond_bench.evaluation.given import given_frames, starts_of
from diamond_bench.evaluation.play import KEPT_FILES, Frames, Imagined, kept_in
from diamond_bench.jobs.context import JobContext, Result, Row
from diamond_bench.jobs.execution import facts_of
from diamond_bench.jobs.imagination_prices import known_prices, prices, speed
from diamond_bench.jobs.loaded_world import executed_world, loaded_world
from diamond_bench.jobs.memory import reset_peak
from diamond_bench.jobs.parts import Arrays, Parts, join, save_arrays
from diamond_bench.metrics import measured
from diamond_bench.metrics.forks import find_forks
from diamond_bench.metrics.header import ALTERED_FRAMES, PICTURED, Play
from diamond_bench.metrics.metric import Metric
from diamond_bench.metrics.planning import lacking, measures
from diamond_bench.metrics.play import (
    ALTERED_STREAM,
    MODES_STREAM,
    ONE_STEP_STREAM,
    ROLLOUT_STREAM,
    SAMPLES_STREAM,
    STAGES,
    Batch,
    Forks,
    Key,
    Measured,
    Meter,
    Setting,
    Shown,
    WindowBatch,
    copy_last,
    window_batch,
    with_random_actions,
)
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.files import sha256
from diamond_bench.store.kinds import EvaluateWorldModel
from diamond_bench.store.twins import Twin
from diamond_bench.training.checkpoint import arithmetic_name
from diamond_bench.worlds.contract import WorldModel

_VIDEO_FRAMES = 300
_ONE_STEP_BATCH = 64


@dataclass(frozen=True)
class _Work:
    """The data that all parts share."""

    config: EvaluateWorldModel
    parts: Parts
    world: WorldModel | None
    """None if all frames are read or given."""
    twin: Twin | None
    """The evaluation whose frames are read in place of imagining them."""
    frames: Mapping[Play, Frames]
    """The source of the frames of each kind of play."""
    metrics: Mapping[str, Metric]
    meters: Sequence[Meter]
    references: Windows
    one_step: Windows
    forks: Forks | None
    """Present if a metric measures forks."""
    actions: ActionSpec

    @property
    def settings(self) -> EvaluationConfig:
        return self.config.evaluation

    def keys(self, stream: int, rows: range, num_samples: int | None = None) -> list[Key]:
        """The seeds of the noise of these rows, or of K samples of each."""
        seed = self.settings.seed
        if num_samples is None:
            return [(seed, stream, i) for i in rows]
        return [(seed, stream, i, k) for i in rows for k in range(num_samples)]

    def measure(self, batch: Batch) -> Arrays:
        """The arrays of all metrics."""
        return {name: values for meter in self.meters for name, values in meter.measure(batch).items()}

    def kept(self, frames: torch.Tensor) -> Arrays:
        """The frames of a part, if all imagined frames are to be kept."""
        return {"frames": frames.cpu().numpy()} if self.settings.keep_frames else {}


def run(config: EvaluateWorldModel, context: JobContext) -> Result:
    """Writes arrays.npz (every trajectory's errors at every t), media/ and the rows of the results table.

    Raises Interrupted with the finished parts kept, and UserError if references, weights or the model are not available.
    """
    device, settings = torch.device(context.device), config.evaluation
    reset_peak(device)
    work, facts = _prepare(config, context, device)
    batches = _kind_batches(settings, work.frames, len(work.one_step), len(work.forks or ()))
    rolled = _joined([_rollout(work, rows) for rows in batches["rollouts"]])
    baselines = _joined([_baselines(work, rows) for rows in batches["rollouts"]])
    ahead = _joined([_one_step(work, rows) for rows in batches["one_step"]])
    sampled = _joined([_samples(work, rows) for rows in batches["samples"]])
    forked = _joined([_forks(work, work.forks, rows) for rows in batches["forks"]]) if work.forks is not None else {}
    altered = _joined([_altered(work, rows) for rows in batches["altered"]])
    fixed = _fixed_actions(work) if settings.fixed_actions else {}

    kept: dict[Play, Arrays] = {"rollouts": rolled, "one_step": ahead, "samples": sampled, "forks": forked, "altered": altered}
    frames = {kind: arrays.pop("frames") for kind, arrays in kept.items() if "frames" in arrays}
    seconds, imagined = float(rolled["seconds"].sum()), settings.num_trajectories * settings.horizon
    rows = _rows(work, Measured(settings, context.inputs, rolled, _by_shown(baselines), ahead, sampled, forked, altered))
    imagining = work.world if isinstance(work.frames["rollouts"], Imagined) else None
    rows += known_prices(work.twin) if imagining is None else prices(imagining, imagined, seconds, device)

    context.check_owner()
    save_arrays(context.folder / "arrays.npz", _arrays(work, rolled, baselines, sampled, forked))
    kept_frames = _keep_frames(work, frames, context.folder)
    if fixed:
        save_arrays(context.folder / "media" / "fixed_actions.npz", fixed, compressed=True)
    return Result(rows, facts | kept_frames | speed(imagining, imagined, seconds))


def _joined(parts: Sequence[Arrays]) -> Arrays:
    """Joins the parts. Frames are left out if a part that an earlier version stored lacks them."""
    whole = all("frames" in part for part in parts)
    kept = [part if whole else {name: values for name, values in part.items() if name != "frames"} for part in parts]
    return join(kept) if kept else {}


def _rows(work: _Work, arrays: Measured) -> list[Row]:
    """Rows of the requested metrics, in the order of the request, and of those that are always measured, stage by stage."""
    asked = work.settings.metrics
    reduced = {name: metric.reduce(arrays) for name, metric in work.metrics.items() if name in asked or not metric.asked}
    order = [*asked, *(name for name in reduced if name not in asked)]
    return [row for stage in STAGES for name in (reduced if stage == "after" else order) for row in reduced[name].get(stage, ())]


def _by_shown(baselines: Arrays) -> dict[Shown, Arrays]:
    shown: tuple[Shown, ...] = ("copy", "unrelated", "true")
    return {
        name: {key.removeprefix(f"{name}_"): values for key, values in baselines.items() if key.startswith(f"{name}_")} for name in shown
    }


def _arrays(work: _Work, rolled: Arrays, baselines: Arrays, sampled: Arrays, forked: Arrays) -> Arrays:
    """The content of arrays.npz: curves over t, values by start and fork, and the held-out episode of each reference, sample start and
    fork, which resampling by episode needs."""
    shape = (work.settings.num_trajectories, work.settings.horizon)
    found: Arrays = {name: values.astype(np.float32) for name, values in {**rolled, **baselines}.items() if values.shape == shape}
    found |= {name: values.astype(np.float32) for name, values in forked.items()}
    for name, values in sampled.items():
        prefix = next((start for start in ("copy_", "true_") if name.startswith(start)), "")
        found[f"{prefix}samples_{name.removeprefix(prefix)}"] = values.astype(np.float32) if values.dtype.kind == "f" else values
    numbers = work.references.episode_numbers()
    found |= {"episodes": numbers[: work.settings.num_trajectories], "sample_episodes": numbers[: work.settings.num_sample_starts]}
    return found if work.forks is None else found | {"fork_episodes": work.forks.windows.episode_numbers()}


def _prepare(config: EvaluateWorldModel, context: JobContext, device: torch.device) -> tuple[_Work, dict[str, Any]]:
    settings, dataset = config.evaluation, context.inputs["dataset"]
    context.progress(0, 1, "loading the model and the references")
    described = load_info(dataset)
    info = described.content
    layout = info["heldout"]
    heldout = load_split(dataset, "heldout")
    num = max(settings.num_trajectories, settings.num_sample_starts)
    starts, window = layout["reference_starts"], (layout["reference_context"], layout["reference_horizon"])
    references = reference_windows(heldout, num, *window, seed=settings.seed, starts=starts)
    every = reference_windows(heldout, len(starts), *window, settings.seed, starts=starts)
    one_step = one_step_windows(every, settings.num_one_step, settings.seed)
    forks = find_forks(one_step, info) if measures(settings.metrics, "forks") else None
    reference_episodes = len(np.unique(references.episode_numbers()[: settings.num_trajectories]))

    optional: tuple[Play, ...] = ("forks", "altered")
    kinds: list[Play] = ["rollouts", "one_step", "samples", *(kind for kind in optional if measures(settings.metrics, kind))]
    given = config.given
    twin = None if given is not None else context.twin(_without_metrics, ("dataset", "world_model"))
    kept: Mapping[Play, Frames] = {} if twin is None else kept_in(twin, kinds)
    world, way = None, {} if twin is None else twin.result.info.get("execution", {})
    if given is not None:
        kept = given_frames(given, starts_of(settings, references, one_step, described.spec.actions))
    elif len(kept) < len(kinds) or settings.fixed_actions:
        world, execution = executed_world(loaded_world(config, context, heldout, device), config, len(one_step), device)
        way = facts_of(execution)
    on_device = heldout.to(device)
    references, one_step = _on(on_device, references), _on(on_device, one_step)
    forks = None if forks is None else replace(forks, windows=_on(on_device, forks.windows))
    there: set[Play] = {*kept, *(kinds if world is not None else ())}
    metrics = {name: metric for name, metric in measured(settings.metrics).items() if not lacking(metric, there)}
    setting = Setting(settings, device, context.inputs, references, forks)
    meters = {name: metric.open(setting) for name, metric in metrics.items()}
    ticks = _ticks(settings, _kind_batches(settings, there, len(one_step), len(forks or ())), list(meters.values()))
    parts = Parts(context, ticks, arithmetic_name(device.type, way.get("compile", "none")))
    frames: dict[Play, Frames] = {} if world is None else dict.fromkeys(kinds, Imagined(world, parts.tick))
    actions, opened = described.spec.actions, list(meters.values())
    work = _Work(config, parts, world, twin, {**frames, **kept}, metrics, opened, references, one_step, forks, actions)
    facts = {
        "references": settings.num_trajectories,
        "reference_episodes": reference_episodes,
        "references_refused_as_leaks": layout["refused_as_leaks"],
        "lost_life": "a reference may run across lost lives, never past the end of its game",
        "horizon": settings.horizon,
        "one_step_windows": len(one_step),
        "samples_per_start": settings.num_samples,
        "weights": {name: meter.sha256 for name, meter in meters.items() if meter.sha256},
        "execution": way,
    }
    if given is not None:
        facts |= {"frames_given": {"folder": given.folder, "sha256": given.digest, "plays": list(given.plays)}}
    if twin is not None:
        facts["frames_read"] = {"kept_by": str(twin.ref), "files": [KEPT_FILES[kind] for kind in kept]}
    return work, facts


def _without_metrics(config: EvaluateWorldModel) -> EvaluateWorldModel:
    """The settings that determine the frames: all except the metrics."""
    return replace(config, evaluation=replace(config.evaluation, metrics=()))


def _on(episodes: EpisodeSet, windows: Windows) -> Windows:
    """The same windows of the same episodes, on the device of `episodes`."""
    return replace(windows, episodes=episodes, first=windows.first.to(episodes.frames.device))


def _batches(total: int, size: int) -> list[range]:
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def _kind_batches(settings: EvaluationConfig, kinds: Collection[Play], one_step: int, forks: int) -> dict[Play, list[range]]:
    """The batches of each kind of play. A kind that is not among `kinds` has none."""
    references, starts = settings.batch_size, max(1, settings.batch_size // settings.num_samples)
    sizes: dict[Play, tuple[int, int]] = {
        "rollouts": (settings.num_trajectories, references),
        "one_step": (one_step, _ONE_STEP_BATCH),
        "samples": (settings.num_sample_starts, starts),
        "forks": (forks, starts),
        "altered": (settings.num_trajectories, references),
    }
    return {kind: _batches(*size) if kind in kinds else [] for kind, size in sizes.items()}


def _ticks(settings: EvaluationConfig, batches: Mapping[Play, Sequence[range]], meters: Sequence[Meter]) -> int:
    """Progress of the whole job: one tick per imagined batch of frames, and those of the metrics."""
    rollouts = sum(settings.horizon + 1 + _metric_ticks(meters, rows) for rows in batches["rollouts"])
    frames: dict[Play, int] = {"samples": settings.sample_horizon, "one_step": 1, "forks": 1, "altered": ALTERED_FRAMES}
    return rollouts + sum(n * len(batches[kind]) for kind, n in frames.items()) + (settings.horizon if settings.fixed_actions else 0)


def _metric_ticks(meters: Sequence[Meter], rows: range) -> int:
    return sum(meter.ticks(rows) for meter in meters)


def _rollout(work: _Work, rows: range) -> Arrays:
    """Measurements of a batch of references imagined to the horizon, its seconds, and the kept frames."""

    def compute() -> Arrays:
        play, keys = window_batch(work.references, rows, work.settings.horizon), work.keys(ROLLOUT_STREAM, rows)
        started = time.perf_counter()
        frames = work.frames["rollouts"](rows, play, keys)
        if frames.is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        kept = len(rows) if work.settings.keep_frames else max(0, min(rows.stop, PICTURED) - rows.start)
        extra = {"seconds": np.array([seconds]), "frames": frames[:kept].cpu().numpy()}
        return work.measure(Batch("rollouts", frames, play, rows, keys, tick=work.parts.tick)) | extra

    ticks = work.settings.horizon + _metric_ticks(work.meters, rows)
    return work.parts.get(f"rollout-{rows.start:06d}", "imagining references", ticks, compute)


def _baselines(work: _Work, rows: range) -> Arrays:
    """The same measurements for the copied last frame, for unrelated true frames and for the true frames themselves."""

    def compute() -> Arrays:
        play = window_batch(work.references, rows, work.settings.horizon)
        shown: dict[Shown, torch.Tensor] = {"copy": copy_last(play)}
        if work.settings.num_trajectories > 1:  # with one reference, no other is unrelated
            others = [(i + 1) % work.settings.num_trajectories for i in rows]
            shown["unrelated"] = window_batch(work.references, others, work.settings.horizon).true
        shown["true"] = play.true
        keys = work.keys(ROLLOUT_STREAM, rows)
        found = {
            f"{name}_{key}": values
            for name, frames in shown.items()
            for key, values in work.measure(Batch("rollouts", frames, play, rows, keys, name)).items()
        }
        work.parts.tick()
        return found

    return work.parts.get(f"baselines-{rows.start:06d}", "measuring baselines", 1, compute)


def _altered(work: _Work, rows: range) -> Arrays:
    """The first frames of the same references with the same noise, under random actions."""

    def compute() -> Arrays:
        play = window_batch(work.references, rows, ALTERED_FRAMES)
        other = with_random_actions(play, work.actions, work.keys(ALTERED_STREAM, rows))
        frames = work.frames["altered"](rows, other, keys := work.keys(ROLLOUT_STREAM, rows))
        return work.measure(Batch("altered", frames, play, rows, keys)) | work.kept(frames)

    return work.parts.get(f"altered-{rows.start:06d}", "imagining other actions", ALTERED_FRAMES, compute)


def _one_step(work: _Work, rows: range) -> Arrays:
    def compute() -> Arrays:
        play, keys = window_batch(work.one_step, rows, 1), work.keys(ONE_STEP_STREAM, rows)
        frames = work.frames["one_step"](rows, play, keys)
        return work.measure(Batch("one_step", frames, play, rows, keys)) | work.kept(frames)

    return work.parts.get(f"one-step-{rows.start:06d}", "predicting one step", 1, compute)


def _samples(work: _Work, rows: range) -> Arrays:
    play = window_batch(work.references, rows, work.settings.sample_horizon)
    return _sampled(work, "samples", rows, play, SAMPLES_STREAM, f"samples-{rows.start:06d}", "sampling futures")


def _forks(work: _Work, forks: Forks, rows: range) -> Arrays:
    return _sampled(
        work, "forks", rows, window_batch(forks.windows, rows, 1), MODES_STREAM, f"modes-{rows.start:06d}", "sampling next frames"
    )


def _sampled(work: _Work, kind: Play, rows: range, play: WindowBatch, stream: int, part: str, text: str) -> Arrays:
    """K futures of each row with the same actions, each with its own noise."""
    k = work.settings.num_samples

    def compute() -> Arrays:
        keys = work.keys(stream, rows, k)
        frames = work.frames[kind](rows, play.repeated(k), keys)
        frames = frames.reshape(len(rows), k, *frames.shape[1:])
        return work.measure(Batch(kind, frames, play, rows, keys)) | work.kept(frames)

    return work.parts.get(part, text, play.true.shape[1], compute)


def _fixed_actions(work: _Work) -> Arrays:
    """The first reference under each fixed action of the game."""
    assert work.world is not None
    world = work.world
    actions = torch.stack(list(fixed_actions(world.spec.actions).values()))

    def compute() -> Arrays:
        play = window_batch(work.references, range(1), work.settings.horizon)
        return as_arrays(world.spec.actions, imagine_fixed(world, play, actions, work.keys(ROLLOUT_STREAM, range(1))[0], work.parts.tick))

    return work.parts.get("fixed-actions", "imagining fixed actions", work.settings.horizon, compute)


def _keep_frames(work: _Work, frames: Mapping[Play, NDArray[np.uint8]], folder: Path) -> dict[str, Any]:
    """Writes media/frames.npz (true and imagined, (PICTURED, horizon, h, w, 3)), media/rollout.mp4 and, if configured, KEPT_FILES.

    Returns their checksums for the facts of the result.
    """
    media = folder / "media"
    shutil.rmtree(media, ignore_errors=True)
    media.mkdir()
    pictured = range(min(PICTURED, work.settings.num_trajectories))
    true = window_batch(work.references, pictured, work.settings.horizon).true.cpu().numpy().transpose(0, 1, 3, 4, 2)
    imagined = frames["rollouts"][:PICTURED].transpose(0, 1, 3, 4, 2)
    save_arrays(media / "frames.npz", {"true": true, "imagined": imagined}, compressed=True)
    write_video(side_by_side(list(true[:, :_VIDEO_FRAMES]), list(imagined[:, :_VIDEO_FRAMES])), media / "rollout.mp4")
    if not work.settings.keep_frames:
        return {}
    for kind, kept in frames.items():
        np.save(folder / KEPT_FILES[kind], kept)
    return {"kept_frames": {KEPT_FILES[kind]: sha256(folder / KEPT_FILES[kind]) for kind in frames}}
