"""Distances between two sets of image features: FID and KID. Pure numpy, float64.

The caller chooses the features. The published numbers use the 2048 pooled ones of the 2015 Inception network.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches (Chan et al. 1979), without keeping any batch."""

    def __init__(self, num_features: int) -> None:
        self.count = 0
        self.mean: Array = np.zeros(num_features)
        self._scatter: Array = np.zeros((num_features, num_features))

    def update(self, features: NDArray[np.floating]) -> None:
        """Adds features (n, d), which must be finite. Raises ValueError for another shape or dtype."""
        batch = _checked(features, "features")
        if batch.shape[1] != len(self.mean):
            raise ValueError(f"features: expected {len(self.mean)} a row, got {batch.shape[1]}")
        batch_mean = batch.mean(axis=0)
        centred, shift = batch - batch_mean, batch_mean - self.mean
        total = self.count + len(batch)
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(batch) / total)
        self.mean = self.mean + shift * (len(batch) / total)
        self.count = total

    @property
    def covariance(self) -> Array:
        """Unbiased covariance (d, d). Raises ValueError below two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows of features, got {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """FID (Heusel et al. 2017) of two sets of features. Its bias depends on their number: compare only values from equal numbers of
    images."""
    return gaussian_frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def gaussian_frechet_distance(mean_a: Array, covariance_a: Array, mean_b: Array, covariance_b: Array) -> float:
    """Squared Frechet distance of two Gaussians: |m_a - m_b|^2 + tr(A + B - 2 (A B)^1/2). Means (d,), covariances (d, d).

    The trace of the root is computed with symmetric matrices, tr (A^1/2 B A^1/2)^1/2, which stays real and exact for singular covariances
    (fewer images than features).
    """
    d = len(mean_a)
    if np.shape(mean_b) != (d,) or np.shape(covariance_a) != (d, d) or np.shape(covariance_b) != (d, d):
        shapes = [np.shape(x) for x in (mean_a, covariance_a, mean_b, covariance_b)]
        raise ValueError(f"expected means (d,) and covariances (d, d) of one d, got {shapes}")
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariance_b @ root).clip(min=0.0)).sum()
    difference = np.asarray(mean_a) - np.asarray(mean_b)
    distance = difference @ difference + np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * cross
    return max(float(distance), 0.0)  # round-off of two equal sets


def kernel_distance(
    a: NDArray[np.floating], b: NDArray[np.floating], subset_size: int = 1000, num_subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """KID (Binkowski et al. 2018) of features a (n, d) and b (m, d): mean and standard deviation over random subsets.

    It is the unbiased MMD^2 with the kernel (x.y / d + 1)^3, so it may be slightly negative. Subsets have `subset_size` rows, or all rows
    of the smaller side if it has fewer (the mean is unbiased at any size). If that is all rows of both sides, all subsets are equal, and
    one of them is computed.
    """
    a, b = _checked(a, "features a"), _checked(b, "features b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features a and b differ in width: {a.shape[1]} against {b.shape[1]}")
    if min(len(a), len(b), subset_size) < 2 or num_subsets < 1:
        raise ValueError(f"KID needs 2 rows a side and a subset: got {len(a)} and {len(b)}, {num_subsets} subsets of {subset_size}")
    size = min(subset_size, len(a), len(b))
    if size == len(a) == len(b):
        num_subsets = 1
    generator = np.random.default_rng(seed)
    distances = [
        _unbiased_mmd(a[generator.choice(len(a), size, replace=False)], b[generator.choice(len(b), size, replace=False)])
        for _ in range(num_subsets)
    ]
    return float(np.mean(distances)), float(np.std(distances))


def _unbiased_mmd(x: Array, y: Array) -> float:
    n, d = x.shape

    def kernel(u: Array, v: Array) -> Array:
        cubed: Array = (u @ v.T / d + 1.0) ** 3
        return cubed

    def off_diagonal_mean(k: Array) -> float:
        return float((k.sum() - np.trace(k)) / (n * (n - 1)))

    return off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2.0 * float(kernel(x, y).mean())


def _checked(features: NDArray[np.floating], name: str) -> Array:
    array = np.asarray(features)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or 0 in array.shape:
        raise ValueError(f"{name}: expected floats (n, d), got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values")
    return array.astype(np.float64)
