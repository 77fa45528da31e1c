"""Scores of samples against a known distribution with two modes: blur or commitment, the share of each mode, and the distance from the
truth. Pure numpy.

Frames are treated as vectors, whatever their shape. Distances are Euclidean over all pixels, in units of the distance between the two
modes. A distance of 0 is on a mode, and the mean of the distribution lies at (1 - p, p) from modes of probabilities (p, 1 - p). No score
depends on which mode is named first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ModeScores:
    """Scores of n windows with K samples each."""

    cramer: Array
    """(n,): per window, the unbiased Cramer distance of the samples' positions on the axis to the true two-point distribution. The Cramer
    distance is the integral of the squared difference of the two distribution functions, half of the energy distance in one dimension.
    Its expectation is 0 for a perfect sampler, so a window's value may be negative."""
    energy: Array
    """(n,): per window, the unbiased energy distance (Székely and Rizzo 2013) of whole frames to the true distribution, in units of the
    distance between the modes."""
    minority_share: float
    """Share of all samples that are nearer to the less likely mode than to the other one, 0 to 1. A sample in the middle counts half.
    Windows with even odds have no less likely mode and are left out. NaN if all windows have even odds."""
    true_minority_share: float
    """The same share of the true distribution: the mean probability of the less likely mode."""
    off_axis: float
    """Root mean square distance of the samples from the axis through both modes."""
    commitment: float
    """Mean position of samples along the axis, from the mean of the two modes (0, a blur) to the mode on the sample's side (at most 1)."""


def measure(samples: ArrayLike, modes: ArrayLike) -> dict[str, Array]:
    """Positions of samples. samples (n, K, ...) and modes (n, 2, ...), frames of one shape and one unit -> arrays for `score`.

    `distances` (n, K, 2): to each mode. `position` (n, K): along the axis from the first mode (0) to the second (1). `off_axis` (n, K):
    distance from that axis. `spread` (n,): mean distance between two different samples of a window. Raises ValueError for other shapes,
    fewer than two samples or equal modes.
    """
    x, m = np.asarray(samples, np.float64), np.asarray(modes, np.float64)
    if x.ndim < 3 or m.shape != (x.shape[0], 2, *x.shape[2:]) or x.shape[1] < 2:
        raise ValueError(f"expected samples (n, K >= 2, ...) and modes (n, 2, ...), got {x.shape} and {m.shape}")
    x, m = x.reshape(*x.shape[:2], -1), m.reshape(*m.shape[:2], -1)
    axis = m[:, 1] - m[:, 0]
    apart = np.linalg.norm(axis, axis=-1)
    if (apart == 0).any():
        raise ValueError("the two modes of a window are the same frame")
    distances = np.linalg.norm(x[:, :, None] - m[:, None], axis=-1) / apart[:, None, None]
    position = np.einsum("nkd,nd->nk", x - m[:, :1], axis) / apart[:, None] ** 2
    foot = m[:, :1] + position[..., None] * axis[:, None]
    off_axis = np.linalg.norm(x - foot, axis=-1) / apart[:, None]
    first, second = np.triu_indices(x.shape[1], 1)
    spread = np.stack([np.linalg.norm(row[first] - row[second], axis=-1).mean() for row in x]) / apart
    return {"distances": distances, "position": position, "off_axis": off_axis, "spread": spread}


def score(measured: Mapping[str, Array], probabilities: ArrayLike) -> ModeScores:
    """The scores of `measure`'s arrays, given true probabilities (n, 2) of the modes, both above 0. Raises ValueError for others."""
    distances, position = measured["distances"], measured["position"]
    p = np.asarray(probabilities, np.float64)
    if p.shape != (len(distances), 2) or (p <= 0).any() or not np.allclose(p.sum(axis=1), 1.0):
        raise ValueError(f"expected probabilities ({len(distances)}, 2) above 0 that sum to 1, got shape {p.shape}")
    mean = p[:, 1:]  # the distribution's mean on the axis
    towards = np.where(position >= mean, (position - mean) / (1 - mean), (mean - position) / mean)
    within_truth = 2 * p[:, 0] * p[:, 1]  # expected distance of two draws of the truth
    on_axis = np.abs(position[..., None] - np.array([0.0, 1.0]))  # (n, K, 2)
    first, second = np.triu_indices(position.shape[1], 1)
    pairs = np.abs(position[:, first] - position[:, second]).mean(axis=1)
    less = distances[..., 0] - distances[..., 1]  # negative: nearer to the first mode
    nearer_first: Array = np.where(less == 0, 0.5, less < 0)
    uneven = p[:, 0] != p[:, 1]
    share = np.where(p[:, :1] < p[:, 1:], nearer_first, 1 - nearer_first)[uneven]
    return ModeScores(
        cramer=(on_axis * p[:, None]).sum(axis=-1).mean(axis=-1) - pairs / 2 - within_truth / 2,
        energy=2 * (distances * p[:, None]).sum(axis=-1).mean(axis=-1) - measured["spread"] - within_truth,
        minority_share=float(share.mean()) if share.size else float("nan"),
        true_minority_share=float(p.min(axis=1)[uneven].mean()) if share.size else float("nan"),
        off_axis=float(np.sqrt(np.square(measured["off_axis"]).mean())),
        commitment=float(np.minimum(towards, 1.0).mean()),
    )


def share_within(distances: ArrayLike, thresholds: Sequence[float] | Array) -> Array:
    """Share of samples whose nearest mode is at most d away, for each threshold d (in units of the distance between the modes).

    distances (n, K, 2) from `measure` -> (len(thresholds),). A blur at the mean of the distribution lies min(p, 1 - p) from the more likely
    mode, so thresholds from there on count it as being on a mode.
    """
    nearest = np.asarray(distances, np.float64).min(axis=-1).reshape(-1)
    return np.array([(nearest <= threshold).mean() for threshold in thresholds])
