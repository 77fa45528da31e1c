"""The family `cascade`: a world model at low resolution, and an upsampler of its frames. Planning imports this file, so it imports no
torch."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from diamond_bench.config import (
    CascadeSampler,
    ConditioningConfig,
    FactoredObjective,
    NetworkConfig,
    Objective,
    RunConfig,
    Sampler,
    TrainingConfig,
    setting,
)
from diamond_bench.config.worlds import WorldCost, WorldFamily, WorldSettings
from diamond_bench.diffusion.schedules import check_sampler, nfe
from diamond_bench.envs.games import spec as spec_of
from diamond_bench.errors import UserError
from diamond_bench.models.cost import Cost
from diamond_bench.models.denoiser_cost import denoiser_cost
from diamond_bench.models.shape import check_guidance, check_network, check_past_noise
from diamond_bench.spaces import FrameSpec, WorldSpec

CSGO_OBJECTIVE = FactoredObjective(loc=-1.2, sigma_offset_noise=0.1)
"""The objective of both stages of the authors' CS:GO model."""


@dataclass(frozen=True)
class LowResolution:
    """The world model at low resolution: a denoiser with the settings of the family `diamond`."""

    objective: Objective = CSGO_OBJECTIVE
    conditioning: ConditioningConfig = ConditioningConfig(actions="active_bits", past_noise="training")
    network: NetworkConfig = NetworkConfig()


@dataclass(frozen=True)
class Upsampler:
    """The upsampler: a denoiser of the frame at full resolution. It receives past frames at full resolution, and the enlarged new frame."""

    objective: Objective = CSGO_OBJECTIVE
    network: NetworkConfig = NetworkConfig((1, 1, 1), (32, 64, 64), (False, False, False))
    num_frames: int = setting(1, minimum=1)
    """L, the number of past frames at full resolution."""
    past_noise: Literal["none", "constant"] = setting("constant")
    """Whether the network has the embedding of past frames' noise (`ConditioningConfig.past_noise`), which is constant here."""
    num_autoregressive_steps: int = setting(1, minimum=0)
    """k further steps that are trained on the upsampler's own frames: k + 1 loss terms."""
    batch_size: int = setting(0, minimum=0)
    """Windows of frames per batch. 0 means training.batch_size."""

    @property
    def conditioning(self) -> ConditioningConfig:
        """The inputs of its network: the enlarged frame is stacked like one more past frame."""
        return ConditioningConfig(self.num_frames + 1, actions="none", past_noise=self.past_noise)


@dataclass(frozen=True)
class Cascade(WorldSettings):
    """The two stages. The constants are those of the authors' CS:GO model, whose networks are larger (family=csgo)."""

    name: str = "cascade"
    factor: int = setting(4, minimum=2)
    """Height and width of a frame, divided by those of the frame at low resolution."""
    low_resolution_rounding: Literal["truncate", "round"] = setting("round")
    """How a frame at low resolution is quantised to 8 bits after bicubic resizing: truncate (the authors) or round."""
    inner: LowResolution = LowResolution()
    upsampler: Upsampler = Upsampler()

    def low_resolution(self, frames: FrameSpec) -> FrameSpec:
        """The size of a frame at low resolution."""
        return FrameSpec(max(1, frames.height // self.factor), max(1, frames.width // self.factor))


def check_frames(settings: Cascade, frames: FrameSpec) -> None:
    """Raises UserError if frames of this size have no exact low resolution."""
    if any(side % settings.factor for side in frames.sides):
        common = math.gcd(*frames.sides)
        valid = ", ".join(str(factor) for factor in range(2, common + 1) if common % factor == 0) or "none; choose another size of frames"
        raise UserError(f"family.factor={settings.factor}: it does not divide the sides of frames of {frames} pixels; valid: {valid}")


def check_two_stages(settings: Cascade, sampler: Sampler) -> CascadeSampler:
    """The sampler, if it fits the training of both stages. Raises UserError."""
    if not isinstance(sampler, CascadeSampler):
        name = getattr(sampler, "name", sampler)
        raise UserError(f"sampler={name}: family=cascade needs a sampler of two stages: sampler=fast or sampler=higher_quality")
    frame, upsampling = sampler.frame, sampler.upsampling
    _named(_INNER, check_sampler, frame, settings.inner.objective)
    _named(_INNER, check_guidance, frame, settings.inner.conditioning)
    _named(_INNER, check_past_noise, frame, settings.inner.conditioning)
    _named(_UPSAMPLER, check_sampler, upsampling, settings.upsampler.objective)
    return sampler


_INNER = {"conditioning.": "family.inner.conditioning.", "network.": "family.inner.network.", "objective.": "family.inner.objective."}
_UPSAMPLER = {
    "network.": "family.upsampler.network.",
    "objective.": "family.upsampler.objective.",
    "sampler.schedule.": "sampler.upsampling_",
    "sampler.s_": "sampler.upsampling_",
    "sampler.num_steps": "sampler.upsampling_steps",
}
"""The keys of a stage's settings, by those of a run."""


def _named(keys: dict[str, str], check: Callable[..., None], *settings: Any) -> None:
    """Calls a check of a run's settings. Its message names the keys of the stage."""
    try:
        check(*settings)
    except UserError as error:
        text = str(error)
        for key, ours in keys.items():
            text = text.replace(key, ours)
        raise UserError(text) from None


def _check(settings: Cascade, config: RunConfig, protocol: str) -> None:
    for stage, keys in ((settings.inner, _INNER), (settings.upsampler, _UPSAMPLER)):
        _named(keys, check_network, stage.network, stage.conditioning)
        if stage.network.heads.used:
            raise UserError(f"{keys['network.']}heads.reads={stage.network.heads.reads}: only family=diamond can have heads; use none")
    if config.data.dataset is None:
        check_frames(settings, spec_of(config.game, config.env).frames)
    check_two_stages(settings, config.sampler)


@functools.cache
def _calls(settings: Cascade, spec: WorldSpec) -> tuple[Cost, Cost]:
    """The cost of one call of the network of each stage."""
    inner, up, low = settings.inner, settings.upsampler, settings.low_resolution(spec.frames)
    return (
        denoiser_cost(inner.network, inner.conditioning, spec.actions, low),
        denoiser_cost(up.network, up.conditioning, spec.actions, spec.frames),
    )


def _cost(settings: Cascade, spec: WorldSpec, sampler: Sampler) -> WorldCost:
    """A caller that asks for a cost which does not depend on the sampler may give any."""
    both = sampler if isinstance(sampler, CascadeSampler) else CascadeSampler()
    inner, up = _calls(settings, spec)
    calls = nfe(both.frame), nfe(both.upsampling)
    low = 3 * 4 * settings.low_resolution(spec.frames).pixels + 8 * len(spec.actions.sizes)  # a float32 frame and an action
    state = settings.inner.conditioning.num_frames * low + settings.upsampler.num_frames * 3 * 4 * spec.frames.pixels
    return WorldCost(inner.parameters + up.parameters, inner.flops * calls[0] + up.flops * calls[1], sum(calls), state)


def _update_flops(settings: Cascade, spec: WorldSpec, training: TrainingConfig) -> float:
    """A forward and a backward pass for each predicted frame of the batch, in both stages."""
    inner, up = _calls(settings, spec)
    upsampled = (settings.upsampler.batch_size or training.batch_size) * (settings.upsampler.num_autoregressive_steps + 1)
    imagined = training.batch_size * (training.num_autoregressive_steps + 1)
    return 3 * training.accumulation * (inner.flops * imagined + up.flops * upsampled)


def _context(settings: Cascade) -> int:
    return max(settings.inner.conditioning.num_frames, settings.upsampler.num_frames)


FAMILY = WorldFamily(
    about="A world model at low resolution, and an upsampler of its frames: the authors' CS:GO game engine.",
    build="diamond_bench.worlds.cascade.world:build_world",
    load="diamond_bench.worlds.cascade.world:load_cascade",
    cost=_cost,
    update_flops=_update_flops,
    context=_context,
    reads=("training.num_autoregressive_steps", "sampler", "execution.precision"),
    two_stages=True,
    check=_check,
)
