"""The cost of `collect_dataset` and `import_dataset`."""

from diamond_bench.costs import STORED_PIXEL_BYTES, frames_of
from diamond_bench.data.leaks import SPREAD
from diamond_bench.envs.games import family_of
from diamond_bench.store.cost import Inputs, JobCost
from diamond_bench.store.kinds import CollectDataset, ImportDataset


def _frames(config: CollectDataset | ImportDataset, inputs: Inputs) -> float:
    """Frames played or copied. Held-out episodes are longer than the references taken from them."""
    data = config.data
    longer = 1.5 if data.windows_per_episode is None else SPREAD
    return data.num_train_frames + data.num_references * (data.reference_context + data.reference_horizon) * longer


def _disk(config: CollectDataset | ImportDataset, inputs: Inputs) -> float:
    known = family_of(config.game).pixel_bytes if isinstance(config, CollectDataset) else None
    return _frames(config, inputs) * frames_of(config).pixels * (known or STORED_PIXEL_BYTES)


COST = JobCost(_frames, disk=_disk)
