"""The parts of a training that a profile measures, and the executions against which it can be timed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PROFILED_UPDATES = ("denoiser_update", "reward_end_update", "actor_critic_update")
PROFILED = (
    *PROFILED_UPDATES,
    *("imagination_step", "next_frame", "denoiser_call", "reward_and_end", "action", "renewal", "loss_and_backward"),
    *("start_segments", "real_step", "peak_memory", "host_synchronisations"),
)
"""The parts that a profile measures. All other numbers are computed from these."""

PACKING_PAIRS = 6
"""Pairs of measurements of a packed profile. An even number: each alternative is as often the first of a pair as the second."""


@dataclass(frozen=True)
class Compared:
    """An execution against which a profile is timed. Device and threads are those of the profile, and weights keep PyTorch's layout."""

    precision: Literal["fp32", "tf32", "bf16"]
    compile: Literal["none", "imagination", "all"]
    fused: bool
    """Whether the optimiser uses few, fused kernels."""


COMPARED: Mapping[str, Compared] = {
    "plain": Compared("fp32", "none", fused=False),
    "authors": Compared("tf32", "imagination", fused=True),
}
"""The executions against which a profile can be timed, by the values of --compare."""
