"""Sentences of a plan about what the device does badly: networks in bf16 without units for it, and families of a size for GPUs."""

from collections.abc import Iterable, Mapping

from diamond_bench.config import ExecutionConfig, world_family
from diamond_bench.costs.world_model import parameters
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.studies.execution import BF16_NAMES, bf16_units, device_type

_FRAMES = FrameSpec.square(64)
"""Frames for which parameters are counted. They hardly depend on it."""
_MANY_PARAMETERS = 1_000_000
"""Parameters of a world model that is slow to train on a CPU."""


def precision_notes(specs: Mapping[JobRef, JobSpec], refs: Iterable[JobRef], gpu: bool) -> list[str]:
    """A sentence if jobs among `refs` run networks in bf16 on this CPU without units for it, and one with the meaning of `auto`.
    `gpu`: whether jobs see a GPU."""
    asked = {(asked.precision, device_type(asked.device, gpu)) for asked in _executions(specs, refs)}
    notes, units = [], bf16_units()
    if ("bf16", "cpu") in asked and units is False:
        notes.append(
            f"execution.precision=bf16: this CPU has no units for bf16 ({BF16_NAMES}), so networks are slow; use execution.precision=fp32"
        )
    if ("auto", "cpu") in asked:
        named = f"units for bf16 ({BF16_NAMES})"
        found = {
            True: f"bf16, because it has {named}",
            False: f"fp32, because it lists no {named}",
            None: "fp32, because its flags are unknown",
        }
        notes.append(f"execution.precision=auto: on this CPU {found[units]}")
    if ("auto", "cuda") in asked:
        notes.append("execution.precision=auto: bf16 on a GPU of compute capability 8.0 or higher, and fp32 on others")
    return notes


def node_notes(specs: Mapping[JobRef, JobSpec], refs: Iterable[JobRef]) -> list[str]:
    """A sentence if jobs among `refs`, which run on the nodes of a cluster, leave the precision to the device."""
    if all(asked.precision != "auto" for asked in _executions(specs, refs)):
        return []
    return [
        "execution.precision=auto: each node decides by its own device, so request nodes of one kind, for example with cluster.constraint"
    ]


def _executions(specs: Mapping[JobRef, JobSpec], refs: Iterable[JobRef]) -> set[ExecutionConfig]:
    return {specs[ref].config.execution for ref in refs if hasattr(specs[ref].config, "execution")}


def slow_sizes(specs: Mapping[JobRef, JobSpec], refs: Iterable[JobRef], gpu: bool) -> list[str]:
    """A sentence for each family of world models that jobs among `refs` train on this CPU at a size for GPUs, if it has a preset for CPUs.
    No scale changes the size of a family's networks. `gpu`: whether jobs see a GPU."""
    found: dict[str, str] = {}
    for config in (specs[ref].config for ref in refs if specs[ref].kind in ("train_world_model", "train_agent")):
        small = "" if config.family is None else world_family(config.family).small
        if small and device_type(config.execution.device, gpu) == "cpu" and parameters(config, _FRAMES) > _MANY_PARAMETERS:
            found[config.family.name] = small
    slow = "training at this size is slow on a CPU, and no scale reduces it"
    return [f"family={name}: {slow}; family={small} is a small preset" for name, small in found.items()]
