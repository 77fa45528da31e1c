"""The job `evaluate_world_model`: a world model imagines held-out trajectories, which are measured against the true ones.

References, starts and noise depend only on the dataset and `evaluation.seed`, so all variants of a study have the same ones. The world
model imagines the frames, or an evaluation that differs only in its metrics has kept them, or they are given (`diamond-bench score`). The
metrics (`metrics/`) then measure each batch, and reduce all batches to rows.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.media import side_by_side, write_video
from diamond_bench.config import world_family
from diamond_bench.data.references import Windows, every_few, one_step_windows, reference_windows
from diamond_bench.data.static import EpisodeSet, load_info, load_split
from diamond_bench.evaluation.given import given_frames, starts_of
from diamond_bench.evaluation.outcomes import OutcomeModel
from diamond_bench.evaluation.play import KEPT_FILES, Frames, Imagined, kept_in
from diamond_bench.jobs.context import JobContext, Result, Row
from diamond_bench.jobs.evaluation_parts import (
    Work,
    altered_part,
    altered_truth_part,
    baselines_part,
    count_ticks,
    estimates_part,
    fixed_actions_part,
    forks_part,
    kind_batches,
    one_step_part,
    outcomes_part,
    reconstructions_part,
    rollout_part,
    samples_part,
)
from diamond_bench.jobs.execution import facts_of
from diamond_bench.jobs.held_actions import HeldPlay
from diamond_bench.jobs.imagination_prices import known_prices, prices, speed
from diamond_bench.jobs.loaded_world import executed_world, loaded_world, reward_end_model
from diamond_bench.jobs.memory import reset_peak
from diamond_bench.jobs.parts import Arrays, Parts, join, save_arrays
from diamond_bench.jobs.precision import kept_precision
from diamond_bench.jobs.true_play import playable
from diamond_bench.metrics import all_metrics, measured
from diamond_bench.metrics.forks import find_forks
from diamond_bench.metrics.header import ESTIMATED_WINDOWS, PICTURED, Play
from diamond_bench.metrics.planning import lacking, measures
from diamond_bench.metrics.play import STAGES, Measured, Setting, Shown, window_batch
from diamond_bench.store.files import sha256
from diamond_bench.store.kinds import EvaluateWorldModel
from diamond_bench.training.checkpoint import arithmetic_name

_VIDEO_FRAMES = 300
_RUNS_THE_MODEL: tuple[Play, ...] = ("estimates", "held", "outcomes")
"""Kinds of play that are never read or given."""


def run(config: EvaluateWorldModel, context: JobContext) -> Result:
    """Writes arrays.npz (every trajectory's errors at every t), media/ and the rows of the results table.

    Raises Interrupted with the finished parts kept, and UserError if references, weights or the model are not available.
    """
    device, settings = torch.device(context.device), config.evaluation
    reset_peak(device)
    work, facts = _prepare(config, context, device)
    batches, num = work.batches, settings.num_trajectories
    rolled = _joined([rollout_part(work, rows) for rows in batches["rollouts"]])
    baselines = _joined([baselines_part(work, rows) for rows in batches["rollouts"]])
    reconstructed = _joined([reconstructions_part(work, rows) for rows in batches["rollouts"] if work.reconstructs])
    ahead = _joined([one_step_part(work, rows) for rows in batches["one_step"]])
    sampled = _joined([samples_part(work, rows) for rows in batches["samples"]])
    forked = _joined([forks_part(work, work.forks, rows) for rows in batches["forks"]]) if work.forks is not None else {}
    altered = _joined([altered_part(work, rows) for rows in batches["altered"]])
    if work.game is not None:
        altered |= _joined([altered_truth_part(work, rows) for rows in batches["altered"]])
    if altered:
        altered |= {"episodes": work.references.episode_numbers()[:num], "blocks": work.references.blocks()[:num]}
    estimated = _joined([estimates_part(work, rows) for rows in batches["estimates"]])
    if estimated:
        estimated |= {"episodes": work.estimated.episode_numbers(), "blocks": work.estimated.blocks()}
    held = work.held.measured(work.measure, work.parts) if work.held is not None else {}
    outcomes = _joined([outcomes_part(work, rows) for rows in batches["outcomes"]])
    fixed = fixed_actions_part(work) if settings.fixed_actions else {}

    kept: dict[Play, Arrays] = {"rollouts": rolled, "one_step": ahead, "samples": sampled, "forks": forked, "altered": altered}
    frames = {kind: arrays.pop("frames") for kind, arrays in kept.items() if "frames" in arrays}
    seconds, imagined = float(rolled["seconds"].sum()), num * settings.horizon
    constants = {name: values for meter in work.meters for name, values in meter.constants.items()}
    of_kinds = (rolled, _by_shown(baselines | reconstructed), ahead, sampled, forked, altered, estimated, held, outcomes)
    rows = _rows(work, Measured(settings, context.inputs, *of_kinds, constants))
    imagining = work.world if isinstance(work.frames["rollouts"], Imagined) else None
    rows += known_prices(work.twin) if imagining is None else prices(imagining, imagined, seconds, device)

    context.check_owner()
    others = (("altered", altered), ("estimates", estimated), ("held", held), ("held", constants), ("outcomes", outcomes))
    extra = {f"{kind}_{name}": values for kind, of in others for name, values in of.items()}
    save_arrays(context.folder / "arrays.npz", _arrays(work, rolled, baselines | reconstructed, sampled, forked) | extra)
    kept_frames = _keep_frames(work, frames, context.folder)
    if fixed:
        save_arrays(context.folder / "media" / "fixed_actions.npz", fixed, compressed=True)
    return Result(rows, facts | kept_frames | speed(imagining, imagined, seconds))


def _joined(parts: Sequence[Arrays]) -> Arrays:
    """Joins the parts. Frames are left out if a part that an earlier version stored lacks them."""
    whole = all("frames" in part for part in parts)
    kept = [part if whole else {name: values for name, values in part.items() if name != "frames"} for part in parts]
    return join(kept) if kept else {}


def _rows(work: Work, arrays: Measured) -> list[Row]:
    """Rows of the requested metrics, in the order of the request, and of those that are always measured, stage by stage."""
    asked = work.settings.metrics
    reduced = {name: metric.reduce(arrays) for name, metric in work.metrics.items() if name in asked or not metric.asked}
    order = [*asked, *(name for name in reduced if name not in asked)]
    return [row for stage in STAGES for name in (reduced if stage == "after" else order) for row in reduced[name].get(stage, ())]


def _by_shown(baselines: Arrays) -> dict[Shown, Arrays]:
    shown: tuple[Shown, ...] = ("copy", "unrelated", "true", "reconstructed")
    return {
        name: {key.removeprefix(f"{name}_"): values for key, values in baselines.items() if key.startswith(f"{name}_")} for name in shown
    }


def _arrays(work: Work, rolled: Arrays, baselines: Arrays, sampled: Arrays, forked: Arrays) -> Arrays:
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


def _prepare(config: EvaluateWorldModel, context: JobContext, device: torch.device) -> tuple[Work, dict[str, Any]]:
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
    # no network of a world model runs if all frames are given
    precision = "fp32" if given is not None else kept_precision(config.execution.precision, context)
    twin = None if given is not None else context.twin(_without_metrics, ("dataset", "world_model"))
    if twin is not None and twin.result.info.get("execution", {}).get("precision", precision) != precision:
        twin = None  # execution.precision=auto meant another precision there
    kept: Mapping[Play, Frames] = {} if twin is None else kept_in(twin, kinds)
    world, way = None, {} if twin is None else twin.result.info.get("execution", {})
    if given is not None:
        kept = given_frames(given, starts_of(settings, references, one_step, described.spec.actions))
    elif (
        len(kept) < len(kinds)
        or settings.fixed_actions
        or any(measures(settings.metrics, kind) for kind in _RUNS_THE_MODEL)
        or world_family(config.family).reconstructs
    ):
        loaded = loaded_world(config, context, heldout, precision)
        world, execution = executed_world(loaded, config, len(one_step), precision, device)
        way = facts_of(execution)
    holds, replays = world is not None and measures(settings.metrics, "held"), any(all_metrics()[name].replays for name in settings.metrics)
    game = playable(dataset, heldout, described.spec) if holds or replays else None
    on_device = heldout.to(device)
    references, one_step = _on(on_device, references), _on(on_device, one_step)
    forks = None if forks is None else replace(forks, windows=_on(on_device, forks.windows))
    estimated = every_few(one_step, ESTIMATED_WINDOWS)
    running: list[Play] = [kind for kind in _RUNS_THE_MODEL if measures(settings.metrics, kind)]
    there: set[Play] = {*kept, *([*kinds, *running] if world is not None else ())}
    metrics = {name: metric for name, metric in measured(settings.metrics).items() if not lacking(metric, there)}
    setting = Setting(settings, device, context.inputs, references, forks)
    meters = {name: metric.open(setting) for name, metric in metrics.items()}
    batches = kind_batches(settings, there, len(one_step), len(forks or ()), len(estimated))
    held = HeldPlay(world, game, references, settings) if world is not None and "held" in there else None
    reconstructs = world is not None and world_family(config.family).reconstructs
    ticks = count_ticks(settings, batches, list(meters.values())) + (held.ticks if held is not None else 0)
    ticks += len(batches["rollouts"]) if reconstructs else 0
    ticks += sum(map(len, batches["altered"])) if replays and game is not None else 0
    parts = Parts(context, ticks, arithmetic_name(device.type, way.get("compile", "none")))
    frames: dict[Play, Frames] = {} if world is None else dict.fromkeys(kinds, Imagined(world, parts.tick))
    actions, opened = described.spec.actions, list(meters.values())
    outcomes = None if world is None or "outcomes" not in there else OutcomeModel(world, reward_end_model(context, precision))
    windows = (references, one_step, estimated, forks, held, outcomes)
    of_game = game if replays else None
    work = Work(config, parts, world, reconstructs, twin, {**frames, **kept}, batches, metrics, opened, *windows, actions, of_game)
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


def _keep_frames(work: Work, frames: Mapping[Play, NDArray[np.uint8]], folder: Path) -> dict[str, Any]:
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
