"""Values of an evaluation by reference, for metrics that are means over references, with the same values of copying the last frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.report.drawing import stored_arrays
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PerReference:
    """One metric of one evaluation."""

    values: Array
    """(references,), in the metric's unit. NaN where a reference has no value: no object of `state_crps` was found in all samples."""
    episodes: NDArray[np.int64] | None
    """(references,): the held-out episode each was cut from. None of an evaluation of revision 1, which did not store it."""
    copied: Array | None
    """(references,): the same of copying the last frame, where the evaluation kept it."""
    by_frame: tuple[Array, Array] | None = None
    """(references, t) of the model and of copying the last frame, where the value is a mean over imagined frames and both were kept."""


def per_reference(store: Store, ref: JobRef, metric: str) -> PerReference | None:
    """The values whose mean is the row `metric` of a finished evaluation; None where the metric is no such mean. Raises DamagedFile."""
    place = METRIC_INFO[metric].values if metric in METRIC_INFO else None
    if ref.kind != "evaluate_world_model" or place is None:
        return None
    name, where, copy = place.array, place.episodes, f"copy_{place.array}"
    found = stored_arrays(store, ref, "arrays.npz", name, where, copy, optional=True)
    if name not in found:
        return None

    def over(key: str) -> Array:
        a: Array = found[key].astype(np.float64)
        return np.asarray({"": a, "mean": a.mean(axis=-1), "last": a[..., -1]}[place.over])

    episodes = found[where].astype(np.int64) if where in found else None
    if copy not in found:
        return PerReference(over(name), episodes, None)
    by_frame = (found[name].astype(np.float64), found[copy].astype(np.float64)) if place.over == "mean" else None
    return PerReference(over(name), episodes, over(copy), by_frame)
