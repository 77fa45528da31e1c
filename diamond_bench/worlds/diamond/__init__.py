"""The family `diamond`: a denoiser predicts the next frame from the last frames and actions. Planning imports this file, so it imports no
torch."""

import functools
from typing import Any, Protocol

from diamond_bench.config import ConditioningConfig, NetworkConfig, Objective, Sampler, TrainingConfig
from diamond_bench.config.worlds import WorldCost, WorldFamily
from diamond_bench.diffusion.schedules import nfe
from diamond_bench.models.denoiser_cost import denoiser_cost
from diamond_bench.spaces import WorldSpec

_cost_of = functools.cache(denoiser_cost)


class Settings(Protocol):
    """Its settings: the config of a run, of a training, or the description stored with the weights."""

    @property
    def objective(self) -> Objective: ...
    @property
    def conditioning(self) -> ConditioningConfig: ...
    @property
    def network(self) -> NetworkConfig: ...


def _cost(settings: Settings, spec: WorldSpec, sampler: Sampler) -> WorldCost:
    call, calls = _cost_of(settings.network, settings.conditioning, spec.actions, spec.frames), nfe(sampler)
    row = 3 * 4 * spec.frames.pixels + 8 * len(spec.actions.sizes)  # a float32 frame and an action
    return WorldCost(call.parameters, call.flops * calls, calls, settings.conditioning.num_frames * row)


def _update_flops(settings: Settings, spec: WorldSpec, training: TrainingConfig) -> float:
    """A forward and a backward pass for each predicted frame of the batch."""
    call = _cost_of(settings.network, settings.conditioning, spec.actions, spec.frames)
    return 3 * call.flops * (training.num_autoregressive_steps + 1) * training.examples


def _context(settings: Any) -> int:
    frames: int = settings.conditioning.num_frames
    return frames


FAMILY = WorldFamily(
    about="A denoiser, trained for each run: the family of a study that names none.",
    build="diamond_bench.worlds.diamond.world:build_world",
    load="diamond_bench.worlds.diamond.world:load_diamond",
    cost=_cost,
    update_flops=_update_flops,
    context=_context,
    estimates=True,
    reads=(
        *("objective", "conditioning", "network", "training.num_autoregressive_steps", "sampler"),
        *("execution.precision", "execution.compile", "execution.sampling_streams", "execution.encode_past"),
    ),
)
