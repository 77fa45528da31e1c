"""The family `diamond`: a denoiser predicts the next frame from the last frames and actions. Planning imports this file, so it imports no
torch."""

import functools
from typing import Any, Protocol

from diamond_bench.config import ConditioningConfig, NetworkConfig, Objective, Sampler, TrainingConfig
from diamond_bench.config.worlds import WorldCost, WorldFamily
from diamond_bench.diffusion.schedules import nfe
from diamond_bench.models.denoiser_cost import denoiser_cost
from diamond_bench.models.outcome_heads_cost import heads_cost
from diamond_bench.models.reward_end_cost import reward_end_cost
from diamond_bench.spaces import WorldSpec

_cost_of, _heads_of = functools.cache(denoiser_cost), functools.cache(heads_cost)


class Settings(Protocol):
    """Its settings: the config of a run, of a training, or the description stored with the weights."""

    @property
    def objective(self) -> Objective: ...
    @property
    def conditioning(self) -> ConditioningConfig: ...
    @property
    def network(self) -> NetworkConfig: ...


def _cost(settings: Settings, spec: WorldSpec, sampler: Sampler) -> WorldCost:
    call, reading = _cost_of(settings.network, settings.conditioning, spec.actions, spec.frames), _heads_of(settings.network, spec.frames)
    heads = settings.network.heads
    calls, memory, start = nfe(sampler) + (heads.reads == "extra"), heads.memory * heads.on_trunk, 0.0
    if heads.reads == "frames":
        reading, memory = reward_end_cost(heads.lstm, spec.actions, spec.frames), heads.lstm.lstm_dim
        start = reading.flops * (settings.conditioning.num_frames - 1)
    row = 3 * 4 * spec.frames.pixels + 8 * len(spec.actions.sizes)  # a float32 frame and an action
    state = settings.conditioning.num_frames * row + 2 * 4 * memory
    return WorldCost(call.parameters + reading.parameters, call.flops * calls + reading.flops, calls, state, start)


def _update_flops(settings: Settings, spec: WorldSpec, training: TrainingConfig) -> float:
    """A forward and a backward pass for each predicted frame of the batch. An extra call for the heads counts in full, although its output
    has no backward pass."""
    call, reading = _cost_of(settings.network, settings.conditioning, spec.actions, spec.frames), _heads_of(settings.network, spec.frames)
    heads = settings.network.heads
    joint = (call.flops * (1 + (heads.reads == "extra")) + reading.flops) * (training.num_autoregressive_steps + 1) * training.examples
    if heads.reads != "frames":
        return 3 * joint
    steps = (heads.lstm.segment_length - 1) * heads.lstm.batch_size * training.accumulation
    return 3 * (joint + reward_end_cost(heads.lstm, spec.actions, spec.frames).flops * steps)


def _context(settings: Any) -> int:
    frames: int = settings.conditioning.num_frames
    return frames


def _outcomes(settings: Any) -> bool:
    """Whether it has heads. A job that trains no network, such as an evaluation, has none."""
    network: NetworkConfig | None = getattr(settings, "network", None)
    return network is not None and network.heads.used


FAMILY = WorldFamily(
    about="A denoiser, trained for each run: the family of a study that names none.",
    build="diamond_bench.worlds.diamond.world:build_world",
    load="diamond_bench.worlds.diamond.world:load_diamond",
    cost=_cost,
    update_flops=_update_flops,
    context=_context,
    estimates=True,
    outcomes=_outcomes,
    reads=(
        *("objective", "conditioning", "network", "training.num_autoregressive_steps", "sampler"),
        *("execution.precision", "execution.compile", "execution.sampling_streams", "execution.encode_past"),
    ),
)
