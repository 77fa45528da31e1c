"""Values of an evaluation by reference, for metrics that are means over references, with the same values of copying the last frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diamond_bench.report.drawing import stored_arrays
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef

Array = NDArray[np.float64]

_FRAMES = ("drift", "ssim", "lpips", "lpips_vgg")
_WINDOWS = {
    "mode_cramer_distance": ("modes_cramer", "fork_episodes"),
    "mode_energy_distance": ("modes_energy", "fork_episodes"),
    "energy_score": ("samples_energy_score", "sample_episodes"),
    "luminance_crps": ("samples_luminance_crps", "sample_episodes"),
    "state_crps": ("samples_state_crps", "sample_episodes"),
    "energy_score_lpips": ("samples_energy_score_lpips", "sample_episodes"),
}
"""Array of one value per window or start, and the array of the episodes these were cut from."""


@dataclass(frozen=True)
class PerReference:
    """One metric of one evaluation."""

    values: Array
    """(references,), in the metric's unit. NaN where a reference has no value: no object of `state_crps` was found in all samples."""
    episodes: NDArray[np.int64] | None
    """(references,): the held-out episode each was cut from. None of an evaluation of revision 1, which did not store it."""
    copied: Array | None
    """(references,): the same of copying the last frame, where the evaluation kept it."""


def per_reference(store: Store, ref: JobRef, metric: str) -> PerReference | None:
    """The values whose mean is the row `metric` of a finished evaluation; None where the metric is no such mean. Raises DamagedFile."""
    base = metric.removesuffix("_final")
    name, where = (base, "episodes") if base in _FRAMES else _WINDOWS.get(metric, ("", ""))
    if ref.kind != "evaluate_world_model" or not name:
        return None
    copy = f"copy_{name}"
    found = stored_arrays(store, ref, "arrays.npz", name, where, copy, optional=True)
    if name not in found:
        return None

    def over(key: str) -> Array:
        """The array with one value per reference, the mean over time or the last one where it has a value at each time."""
        a: Array = found[key].astype(np.float64)
        if base not in _FRAMES:
            return a
        return np.asarray(a[:, -1] if metric.endswith("_final") else a.mean(axis=1))

    return PerReference(over(name), found[where].astype(np.int64) if where in found else None, over(copy) if copy in found else None)
