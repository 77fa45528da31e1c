"""The job `extract_features`: Inception features of the true frames with which FID and KID compare imagined frames, once per dataset.

The choice of frames depends only on the dataset and on settings of the evaluation, so all variants and seeds of a study share them.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
import torch
from torch import Tensor

from diamond_bench.data.references import reference_windows
from diamond_bench.data.sources import SegmentSource, open_source
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.jobs.parts import Arrays, Parts, save_arrays
from diamond_bench.metrics import perceptual
from diamond_bench.metrics.fid import FEATURES_FILE, fid_positions
from diamond_bench.metrics.inception_cost import INCEPTION_FLOPS
from diamond_bench.metrics.play import FID_STREAM
from diamond_bench.store.kinds import ExtractFeatures

_BATCH = 64
_PART = 1024
"""Images per part. A part is stored when it is finished."""


def run(config: ExtractFeatures, context: JobContext) -> Result:
    """Writes features.npz: `true` and `other`, each (num_images, 2048) float32, and `weights`, the SHA-256 of the network's file.

    `true` are features of the references' frames at `fid_positions`, in the order of references and times. `other` are features of as many
    frames of the training data. Raises Interrupted with the finished parts kept. Raises UserError if the dataset has too few frames or if
    the weights are missing.
    """
    with closing(open_source("streamed", context.inputs["dataset"] / "train", "cpu")) as train:
        return _extract(config, context, train)


def _extract(config: ExtractFeatures, context: JobContext, train: SegmentSource) -> Result:
    dataset, device = context.inputs["dataset"], torch.device(context.device)
    context.progress(0, 1, "loading the network and the frames")
    network = perceptual.inception_features(device)
    layout = load_info(dataset).content["heldout"]
    heldout = load_split(dataset, "heldout")
    if train.num_frames < config.num_images:
        raise UserError(
            f"evaluation.num_fid_images={config.num_images}: the floor of FID takes as many frames of the training data, which has "
            f"{train.num_frames}; lower it, or leave fid out of metrics"
        )
    references = reference_windows(
        heldout,
        config.num_trajectories,
        layout["reference_context"],
        layout["reference_horizon"],
        seed=config.seed,
        starts=layout["reference_starts"],
    )
    times = torch.arange(config.horizon) + references.context
    chosen = torch.from_numpy(fid_positions(config.seed, config.num_trajectories, config.horizon, config.num_images))
    others = np.random.default_rng([config.seed, FID_STREAM, 1]).choice(train.num_frames, config.num_images, replace=False)
    sets: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "true": (lambda rows: heldout.frames[rows], (references.first[:, None] + times)[chosen]),
        "other": (lambda rows: train.read(rows[:, None]).frames[:, 0], torch.from_numpy(others)),
    }
    parts = Parts(context, sum(math.ceil(len(part) / _BATCH) for _, rows in sets.values() for part in rows.split(_PART)))
    seconds, found = 0.0, {}

    def features(read: Callable[[Tensor], Tensor], rows: Tensor) -> Arrays:
        started, out = time.perf_counter(), []
        for batch in rows.split(_BATCH):
            out.append(network(read(batch)).cpu().numpy())
            parts.tick()
        return {"features": np.concatenate(out), "seconds": np.array([time.perf_counter() - started])}

    for name, (read, rows) in sets.items():
        got = []
        for i, part in enumerate(rows.split(_PART)):
            ticks = -(-len(part) // _BATCH)
            got.append(parts.get(f"{name}-{i:04d}", "features of true frames", ticks, partial(features, read, part)))
        found[name] = np.concatenate([arrays["features"] for arrays in got])
        seconds += sum(float(arrays["seconds"].sum()) for arrays in got)
    context.check_owner()
    save_arrays(context.folder / FEATURES_FILE, {**found, "weights": np.array(network.sha256)})
    images = sum(len(values) for values in found.values())
    facts = {"images": images, "weights": {"fid": network.sha256}, "work": INCEPTION_FLOPS * images, "work_seconds": seconds}
    return Result([], facts)
