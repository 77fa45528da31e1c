"""The cost of `extract_clip_features`."""

from diamond_bench.metrics.fvd import FEATURE_BYTES, REFERENCES
from diamond_bench.models.i3d_cost import i3d_cost
from diamond_bench.store.cost import Arithmetic, Inputs, JobCost
from diamond_bench.store.kinds import ExtractClipFeatures

_SETS = 1 + len(REFERENCES)
"""The true clips, and those of each reference."""


def _disk(config: ExtractClipFeatures, inputs: Inputs) -> float:
    return 1.0 * _SETS * FEATURE_BYTES * config.num_clips


COST = JobCost(
    work=lambda config, inputs: _SETS * config.num_clips * i3d_cost(config.clip_frames).flops,
    arithmetic=lambda config, inputs: Arithmetic("i3d", precision=config.execution.precision, device=config.execution.device),
    disk=_disk,
    passing_disk=_disk,  # finished parts, removed when the job is done
)
