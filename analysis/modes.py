"""Samples against a known distribution of two modes: blurred or committed, which mode how often, how far from the truth. Pure numpy.

A frame is a vector here, whatever its shape; distances are Euclidean over all its pixels and in units of the distance between the two
modes. So 0 is on a mode, and the mean of the distribution lies at (1 - p, p) from modes of probabilities (p, 1 - p).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

VALID_DISTANCE = 1 / 8
"""A sample at least this near to a mode is valid: a quarter of half the distance between the modes."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ModeScores:
    """What the samples of n windows, K each, say."""

    valid_fraction: float
    """Share of samples that are valid, 0 to 1."""
    commitment: float
    """Mean of how far each sample is along the axis from the mean of the two modes (0, a blur) to a mode (1)."""
    minority_share: float
    """Of the valid samples, the share on the less likely mode; NaN where none is valid."""
    true_minority_share: float
    """What it would be of the truth: the mean over windows of the less likely mode's probability."""
    mode_distance: float
    """Total variation, 0 to 1, between the pooled shares of (first mode, second mode, invalid) and the true ones, which have 0 invalid.
    Windows of equal probabilities are pooled; the mean over such pools, by their windows."""
    energy_distance: float
    """Mean over windows of the unbiased energy distance (Székely and Rizzo 2013) of the samples to the true distribution, in units of the
    distance between the modes. It sees a window whose samples all take the same way, which the pooled shares cannot."""


def measure(samples: ArrayLike, modes: ArrayLike) -> dict[str, Array]:
    """Where samples lie. samples (n, K, ...) and modes (n, 2, ...), frames of one shape and one unit -> arrays that `score` takes.

    `distances` (n, K, 2): to each mode. `position` (n, K): along the axis from the first mode (0) to the second (1). `spread` (n,): mean
    distance between two different samples of a window. Raises ValueError for other shapes, fewer than two samples or equal modes.
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
    first, second = np.triu_indices(x.shape[1], 1)
    spread = np.stack([np.linalg.norm(row[first] - row[second], axis=-1).mean() for row in x]) / apart
    return {"distances": distances, "position": position, "spread": spread}


def score(measured: Mapping[str, Array], probabilities: ArrayLike) -> ModeScores:
    """The scores of `measure`'s arrays, under true probabilities (n, 2) of the modes, both above 0. Raises ValueError for others.

    The less likely mode is the one of smaller probability; at even odds, the first.
    """
    distances, position, spread = measured["distances"], measured["position"], measured["spread"]
    p = np.asarray(probabilities, np.float64)
    if p.shape != (len(distances), 2) or (p <= 0).any() or not np.allclose(p.sum(axis=1), 1.0):
        raise ValueError(f"expected probabilities ({len(distances)}, 2) above 0 that sum to 1, got shape {p.shape}")
    nearest = distances.argmin(axis=-1)
    valid = distances.min(axis=-1) <= VALID_DISTANCE
    minority = p.argmin(axis=1)
    mean = p[:, 1:]  # the distribution's mean on the axis
    towards = np.where(position >= mean, (position - mean) / (1 - mean), (mean - position) / mean)
    crossed = 2 * (distances * p[:, None]).sum(axis=-1).mean(axis=-1)
    energy = crossed - spread - 2 * p[:, 0] * p[:, 1]
    on_minority = nearest == minority[:, None]
    return ModeScores(
        valid_fraction=float(valid.mean()),
        commitment=float(np.minimum(towards, 1.0).mean()),
        minority_share=float(on_minority[valid].mean()) if valid.any() else float("nan"),
        true_minority_share=float(p.min(axis=1).mean()),
        mode_distance=_total_variation(nearest, valid, p),
        energy_distance=float(energy.mean()),
    )


def _total_variation(nearest: NDArray[np.intp], valid: NDArray[np.bool_], p: Array) -> float:
    kinds, pool = np.unique(p.round(12), axis=0, return_inverse=True)
    total = 0.0
    for number, truth in enumerate(kinds):
        inside = pool.reshape(-1) == number
        shares = [(valid[inside] & (nearest[inside] == mode)).mean() for mode in (0, 1)]
        invalid = 1.0 - sum(shares)
        total += inside.sum() * (abs(shares[0] - truth[0]) + abs(shares[1] - truth[1]) + invalid) / 2
    return float(total / len(p))
