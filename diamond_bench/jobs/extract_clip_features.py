"""The job `extract_clip_features`: I3D features of the clips with which FVD and KVD compare imagined clips, once per dataset.

The choice of clips depends only on the dataset and on settings of the evaluation, so all variants and seeds of a study share them.
"""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diamond_bench.data.references import reference_windows
from diamond_bench.data.segments import Layout
from diamond_bench.data.sources import SegmentSource, open_source
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.jobs.parts import Arrays, Parts, save_arrays
from diamond_bench.metrics import perceptual
from diamond_bench.metrics.fvd import FEATURES_FILE
from diamond_bench.metrics.play import CLIPS_STREAM
from diamond_bench.models.i3d_cost import i3d_cost
from diamond_bench.store.kinds import ExtractClipFeatures

_BATCH = 4
_PART = 32
"""Clips per part. A part is stored when it is finished."""
_OTHER, _SHUFFLED = 0, 1
"""Streams of random numbers: the clips of the training data, and the order of frames."""


def run(config: ExtractClipFeatures, context: JobContext) -> Result:
    """Writes clip_features.npz: five arrays (num_clips, 400) float32, the clips' episodes, and the SHA-256 `weights` of the network's file.

    - `true`: the first `clip_frames` true frames after each reference's context.
    - `other`: as many clips of the training data, which share no frame.
    - `copied`: the last frame of the context, repeated.
    - `frozen`: the first frame of the true clip, repeated.
    - `shuffled`: the frames of the true clip in random order.
    - `episodes` and `other_episodes`: (num_clips,) int64. No number is in both.

    Raises Interrupted with the finished parts kept. Raises UserError if the dataset has too few clips or episodes, or if the weights are
    missing.
    """
    with closing(open_source("streamed", context.inputs["dataset"] / "train", "cpu")) as train:
        return _extract(config, context, train)


def _extract(config: ExtractClipFeatures, context: JobContext, train: SegmentSource) -> Result:
    dataset, device = context.inputs["dataset"], torch.device(context.device)
    context.progress(0, 1, "loading the network and the frames")
    network = perceptual.i3d_features(device)
    layout = load_info(dataset).content["heldout"]
    heldout = load_split(dataset, "heldout")
    window = (layout["reference_context"], layout["reference_horizon"])
    references = reference_windows(heldout, config.num_clips, *window, seed=config.seed, starts=layout["reference_starts"])
    others, other_episodes = _other_clips(train, config)
    episodes = references.episode_numbers()
    _check_episodes("held-out", episodes, "raise evaluation.num_trajectories and data.num_references, or lower data.windows_per_episode")
    _check_episodes("training", other_episodes, "raise data.num_train_frames, or use a game with shorter episodes")
    first, time_steps = references.first + references.context, torch.arange(config.clip_frames)
    orders = torch.from_numpy(
        np.random.default_rng([config.seed, CLIPS_STREAM, _SHUFFLED]).permuted(
            np.tile(np.arange(config.clip_frames), (config.num_clips, 1)), axis=1
        )
    )
    still = torch.zeros_like(time_steps)
    sets = {
        "true": first[:, None] + time_steps,
        "other": others[:, None] + time_steps,
        "copied": first[:, None] - 1 + still,
        "frozen": first[:, None] + still,
        "shuffled": first[:, None] + orders,
    }
    parts = Parts(context, sum(-(-len(part) // _BATCH) for rows in sets.values() for part in rows.split(_PART)))
    found: dict[str, NDArray[np.float32]] = {}
    seconds = 0.0
    for name, rows in sets.items():
        read: Callable[[Tensor], Tensor] = (
            (lambda rows: train.read(rows).frames) if name == "other" else (lambda rows: heldout.frames[rows])
        )
        got = []
        for i, part in enumerate(rows.split(_PART)):
            ticks = -(-len(part) // _BATCH)
            compute = partial(_features, network, read, part, parts.tick)
            got.append(parts.get(f"{name}-{i:04d}", f"features of clips ({name})", ticks, compute))
        found[name] = np.concatenate([arrays["features"] for arrays in got])
        seconds += sum(float(arrays["seconds"].sum()) for arrays in got)
    context.check_owner()
    of_clips = {"episodes": episodes, "other_episodes": other_episodes + len(heldout)}
    save_arrays(context.folder / FEATURES_FILE, {**found, **of_clips, "weights": np.array(network.sha256)})
    clips = sum(len(values) for values in found.values())
    work = i3d_cost(config.clip_frames).flops * clips
    return Result([], {"clips": clips, "weights": {"fvd": network.sha256}, "work": work, "work_seconds": seconds})


def _features(network: Callable[[Tensor], Tensor], read: Callable[[Tensor], Tensor], rows: Tensor, tick: Callable[[], None]) -> Arrays:
    started, out = time.perf_counter(), []
    for batch in rows.split(_BATCH):
        out.append(network(read(batch)).cpu().numpy())
        tick()
    return {"features": np.concatenate(out), "seconds": np.array([time.perf_counter() - started])}


def _check_episodes(split: str, episodes: NDArray[np.int64], mend: str) -> None:
    if len(np.unique(episodes)) < 2:
        raise UserError(
            f"FVD and KVD compare clips of different episodes, and all {len(episodes)} clips of the {split} data lie in one: {mend}, or "
            "leave fvd and kvd out of metrics"
        )


def _other_clips(train: Layout, config: ExtractClipFeatures) -> tuple[Tensor, NDArray[np.int64]]:
    """First rows and episodes of clips of the training data: drawn from those that lie end to end in each episode."""
    counts = (train.lengths // config.clip_frames).numpy()
    if (there := int(counts.sum())) < config.num_clips:
        raise UserError(
            f"evaluation.num_trajectories={config.num_clips}: the floor of FVD and KVD takes as many clips of {config.clip_frames} frames "
            f"of the training data, whose episodes hold {there}; lower it, raise data.num_train_frames, or leave fvd and kvd out of metrics"
        )
    chosen = np.sort(np.random.default_rng([config.seed, CLIPS_STREAM, _OTHER]).choice(there, config.num_clips, replace=False))
    episodes = np.repeat(np.arange(len(counts)), counts)[chosen]
    places = chosen - (np.cumsum(counts) - counts)[episodes]
    return train.starts[torch.from_numpy(episodes)] + torch.from_numpy(places * config.clip_frames), episodes
