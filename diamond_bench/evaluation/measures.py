"""What is measured of imagined frames, in parts that can be computed and stored one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.frechet import FeatureStatistics, frechet_distance, kernel_distance
from analysis.pixels import absolute_error, noise_level, sharpness, squared_error, ssim
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.evaluation.proper_scores import Distance, sample_scores
from diamond_bench.evaluation.rollouts import Key, Stretch, Tick, imagine, unit
from diamond_bench.models.precision import arithmetic
from diamond_bench.worlds.contract import WorldModel

Array = NDArray[np.float64]
Features = Callable[[Tensor], Tensor]
"""Inception features of uint8 frames (n, 3, h, w) -> (n, 2048)."""
_CHUNK = 512


@dataclass(frozen=True)
class Metrics:
    """The metrics asked for, with the networks they need."""

    names: Sequence[str]
    distances: Mapping[str, Distance]
    """Perceptual distances by metric name (lpips, lpips_vgg)."""
    features: Features | None = None
    """Where FID is asked for."""


def frame_errors(metrics: Metrics, imagined: Tensor, true: Tensor) -> dict[str, Array]:
    """Every metric of imagined against true frames, both (n, t, 3, h, w) uint8 -> arrays (n, t): drift (mean absolute error), mse,
    ssim, perceptual distances, sharpness and noise level of the imagined."""
    found: dict[str, list[Tensor]] = {}
    arithmetic(imagined.device.type, "fp32")  # ssim convolves: whatever a network before it ran in
    for a, b in zip(imagined.flatten(0, 1).split(_CHUNK), true.flatten(0, 1).split(_CHUNK), strict=True):
        x, y = unit(a), unit(b)
        scores = {"drift": absolute_error(x, y), "mse": squared_error(x, y), "sharpness": sharpness(x), "noise": noise_level(x)}
        if "ssim" in metrics.names:
            scores["ssim"] = ssim(x, y)
        for name, distance in metrics.distances.items():
            scores[name] = distance(from_bytes(a), from_bytes(b))
        for name, score in scores.items():
            found.setdefault(name, []).append(score)
    return {name: torch.cat(scores).double().reshape(imagined.shape[:2]).cpu().numpy() for name, scores in found.items()}


def copy_last(play: Stretch) -> Tensor:
    """The baseline that repeats the last frame of the context, (n, horizon, 3, h, w) uint8."""
    return play.frames[:, play.context - 1 : play.context].expand_as(play.true)


def one_step_errors(world: WorldModel, play: Stretch, keys: Sequence[Key], tick: Tick) -> dict[str, Array]:
    """Mean squared error (n,) of each row's one frame predicted from true frames, and of copying the last."""
    pairs = {"mse": imagine(world, play, keys, tick), "copy_mse": copy_last(play)}
    return {name: squared_error(unit(frames[:, 0]), unit(play.true[:, 0])).double().cpu().numpy() for name, frames in pairs.items()}


def sample_errors(
    world: WorldModel,
    metrics: Metrics,
    play: Stretch,
    keys: Sequence[Key],
    num_samples: int,
    tick: Tick,
    states: Callable[[Tensor], dict[str, NDArray[Any]]] | None = None,
) -> dict[str, NDArray[Any]]:
    """K futures of each row under the same actions: their mean errors over the horizon, arrays (n, K), one per metric, and the proper
    scores of `proper_scores.sample_scores`, arrays (n,).

    `keys`: n * K, the K of a row side by side. `states`: more scores of the futures (n, K, T, 3, h, w) uint8, arrays (n, ...).
    """
    repeated = play.repeated(num_samples)
    imagined = imagine(world, repeated, keys, tick)
    errors = frame_errors(metrics, imagined, repeated.true)
    found: dict[str, NDArray[Any]] = {name: values.mean(axis=1).reshape(len(play), num_samples) for name, values in errors.items()}
    futures = imagined.reshape(len(play), num_samples, *imagined.shape[1:])
    last = play.frames[:, play.context - 1]
    found |= sample_scores(futures, play.true, last, keys[::num_samples], metrics.distances.get("lpips"))
    return found if states is None else found | states(futures)


def distribution_distances(a: NDArray[np.floating], b: NDArray[np.floating], seed: int) -> tuple[float, float]:
    """(FID, KID) between two equally large sets of features."""
    if len(a) != len(b):
        raise ValueError(f"FID is compared at equal numbers of images, got {len(a)} and {len(b)}")
    statistics = []
    for features in (a, b):
        gathered = FeatureStatistics(features.shape[1])
        gathered.update(features)
        statistics.append(gathered)
    return frechet_distance(*statistics), kernel_distance(a, b, seed=seed)[0]
