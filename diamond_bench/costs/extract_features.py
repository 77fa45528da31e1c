"""The cost of `extract_features`."""

from diamond_bench.metrics.fid import FEATURE_BYTES
from diamond_bench.metrics.inception_cost import INCEPTION_FLOPS
from diamond_bench.store.cost import Arithmetic, Inputs, JobCost
from diamond_bench.store.kinds import ExtractFeatures


def _disk(config: ExtractFeatures, inputs: Inputs) -> float:
    return 2.0 * FEATURE_BYTES * config.num_images


COST = JobCost(
    work=lambda config, inputs: 2 * config.num_images * INCEPTION_FLOPS,
    arithmetic=lambda config, inputs: Arithmetic("inception", precision=config.execution.precision, device=config.execution.device),
    disk=_disk,
    passing_disk=_disk,  # finished parts, removed when the job is done
)
