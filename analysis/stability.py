"""Stability of imagined play: distance from known frames, collapse, motion, and runs of one action. Frames are uint8 tensors."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

SIDE = 16
"""Height and width of the downsampled frames whose distances are measured. Smaller frames keep their size."""
_CHUNK = 256
"""Frames that are downsampled, or compared, at a time."""


def small_frames(frames: Tensor) -> Tensor:
    """Frames (..., 3, h, w) uint8, averaged over areas to at most SIDE x SIDE, as vectors (..., d) float64 in [0, 1]."""
    sides = (min(SIDE, frames.shape[-2]), min(SIDE, frames.shape[-1]))
    found = [F.adaptive_avg_pool2d(chunk.double() / 255, sides).flatten(1) for chunk in frames.flatten(0, -4).split(_CHUNK)]
    return torch.cat(found).reshape(*frames.shape[:-3], -1)


def nearest_distance(queries: Tensor, known: Tensor) -> Tensor:
    """RMS difference of each vector (n, d) from the nearest of `known` (m, d), (n,). Float64, so that equal vectors have distance 0 up to
    1e-7. Memory holds _CHUNK x m distances at a time."""
    norms = known.square().sum(dim=1)
    found = [(chunk.square().sum(dim=1) + (norms - 2 * chunk @ known.T).amin(dim=1)).clamp(min=0) for chunk in queries.split(_CHUNK)]
    return (torch.cat(found) / queries.shape[1]).sqrt()


def collapses(distances: ArrayLike, lengths: ArrayLike, threshold: float, run: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """When plays collapse: the first of `run` consecutive frames whose distances are all above the threshold.

    A shorter run counts if the play ends within it: the play did not come back. If it were censored there, plays that collapse shortly
    before their end would raise the survival of the others.

    Args:
        distances: (n, T).
        lengths: frames of each play, at least 1, (n,). Distances after them are not used.
        threshold: a distance.
        run: consecutive frames.

    Returns the frames before the collapse (n,), and whether the play collapsed (n,). A play without a collapse lasted until its end.
    """
    begins = _run_minima(distances, lengths, run) > threshold
    collapsed: NDArray[np.bool_] = np.asarray(begins.any(axis=1))
    return np.where(collapsed, begins.argmax(axis=1), np.asarray(lengths, np.int64)), collapsed


def alarm_levels(distances: ArrayLike, lengths: ArrayLike, run: int) -> NDArray[np.float64]:
    """The smallest threshold at which each play does not collapse, (n,). Arguments as in `collapses`."""
    levels: NDArray[np.float64] = _run_minima(distances, lengths, run).max(axis=1)
    return levels


def _run_minima(distances: ArrayLike, lengths: ArrayLike, run: int) -> NDArray[np.float64]:
    """The smallest distance of the run that begins with each frame, (n, T), and -inf after the play's end. Its end cuts a run."""
    values = np.asarray(distances, np.float64)
    inside = np.arange(values.shape[1]) < np.asarray(lengths, np.int64)[:, None]
    padded = np.pad(np.where(inside, values, np.inf), ((0, 0), (0, run - 1)), constant_values=np.inf)
    return np.where(inside, np.lib.stride_tricks.sliding_window_view(padded, run, axis=1).min(axis=-1), -np.inf)


def motion_energy(frames: Tensor, before: Tensor) -> Tensor:
    """Mean squared difference of each frame from the one before, in [0, 1]. Frames (n, T, 3, h, w), `before` (n, 3, h, w) -> (n, T)
    float64."""
    found, last = [], before
    for t in range(frames.shape[1]):  # one frame at a time: all of them as floats would not fit into memory
        found.append(((frames[:, t].float() - last.float()) / 255).square().mean(dim=(1, 2, 3)).double())
        last = frames[:, t]
    return torch.stack(found, dim=1)


def held_shares(same: ArrayLike, starts: ArrayLike, longest: int) -> NDArray[np.float64]:
    """The share of N steps that end a run of at least k steps with the action of interest, for k = 1, ..., `longest`.

    `same`: whether each step has this action, (N,). `starts`: the first step of each episode. Runs end at episodes' ends.
    """
    flags = np.asarray(same, bool)
    steps = np.arange(len(flags))
    broken = np.where(flags, -1, steps)
    begins = np.full(len(flags), -1)
    begins[np.asarray(starts, np.int64)] = np.asarray(starts, np.int64) - 1
    runs = steps - np.maximum.accumulate(np.maximum(broken, begins))
    counts = np.bincount(np.minimum(np.where(flags, runs, 0), longest), minlength=longest + 1)
    return counts[::-1].cumsum()[::-1][1:] / max(1, len(flags))
