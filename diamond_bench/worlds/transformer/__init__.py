"""The family `transformer`: a causal diffusion transformer over frames, each with its own noise level in training. Planning imports this
file, so it imports no torch."""

from dataclasses import dataclass
from typing import Literal

from diamond_bench.config import (
    CascadeSampler,
    FactoredObjective,
    Objective,
    OdeSampler,
    OpenLoopSampler,
    RunConfig,
    Sampler,
    TrainingConfig,
    setting,
)
from diamond_bench.config.worlds import WorldCost, WorldFamily, WorldSettings
from diamond_bench.diffusion.schedules import check_sampler, nfe, trained_sigma_range
from diamond_bench.envs.games import spec as spec_of
from diamond_bench.errors import UserError
from diamond_bench.models.frame_transformer_cost import FrameTransformerConfig, FrameTransformerShape, network_cost
from diamond_bench.spaces import FrameSpec, WorldSpec


@dataclass(frozen=True)
class Transformer(WorldSettings):
    """The network, its objective, and how it treats the frames of its memory."""

    name: str = "transformer"
    objective: Objective = FactoredObjective(sigma_offset_noise=0.0)
    """The objective of every frame, in the coordinate of frames."""
    network: FrameTransformerConfig = FrameTransformerConfig()
    num_frames: int = setting(4, minimum=1)
    """Real frames in the memory before the first imagined one."""
    noise: Literal["per_frame", "last_frame"] = setting("per_frame")
    """Training: every frame of a segment has a noise level of its own and is predicted (diffusion forcing), or the earlier frames have the
    context noise and only the last one is predicted."""
    context_noise: float = setting(0.05, minimum=1e-3)
    """Noise level sigma of the frames in the memory, in sampling: their noise, and the level that the network receives."""
    history_guidance: float = setting(1.0, minimum=0.0)
    """w of estimate = without memory + w * (with memory - without memory). 1 makes no calls without the memory."""

    def shape(self, spec: WorldSpec) -> FrameTransformerShape:
        """The shape of the network for a game."""
        return FrameTransformerShape(self.network, spec.frames, spec.actions)


def check_frames(settings: Transformer, frames: FrameSpec) -> None:
    """Raises UserError if frames of this size cannot be cut into patches."""
    if any(side % settings.network.patch for side in frames.sides):
        raise UserError(f"family.network.patch={settings.network.patch}: it does not divide the sides of frames of {frames} pixels")


def check_fits(settings: Transformer, sampler: Sampler) -> None:
    """Raises UserError if the sampler does not fit the training."""
    if isinstance(sampler, CascadeSampler):
        raise UserError(f"sampler={sampler.name}: it has two stages, for models of family=cascade")
    if sampler.guidance != 1:
        raise UserError(f"sampler.guidance={sampler.guidance:g}: family=transformer never learns without actions; use sampler.guidance=1")
    if isinstance(sampler, OpenLoopSampler) and settings.noise == "last_frame":
        raise UserError(
            f"sampler={sampler.name}: a frame attends to others that are not finished, which family.noise=last_frame never trains; "
            "use family.noise=per_frame, or another sampler, such as sampler=euler"
        )
    if isinstance(sampler, OdeSampler) and sampler.s_cond > 0:
        _check_context_noise(settings, sampler)
    try:
        check_sampler(sampler, settings.objective)
    except UserError as error:
        raise UserError(str(error).replace("objective.", "family.objective.")) from None


def context_noise(settings: Transformer, sampler: Sampler) -> float:
    """The noise level of the frames in the memory: that of the sampler, or else that of the settings."""
    return sampler.s_cond if isinstance(sampler, OdeSampler) and sampler.s_cond > 0 else settings.context_noise


def _check_context_noise(settings: Transformer, sampler: OdeSampler) -> None:
    key = f"sampler.s_cond={sampler.s_cond:g}"
    if sampler.s_cond_rule != "accumulating":
        raise UserError(f"sampler.s_cond_rule={sampler.s_cond_rule}: family=transformer adds noise to a frame once; leave it out")
    if settings.noise == "last_frame":
        raise UserError(f"{key}: with family.noise=last_frame, a model is trained at family.context_noise alone; set that one")
    low, high = trained_sigma_range(settings.objective)
    if not low <= sampler.s_cond <= high:
        raise UserError(f"{key}: the objective trains levels from {low:g} to {high:g}")


def _check(settings: Transformer, config: RunConfig, protocol: str) -> None:
    network, objective = settings.network, settings.objective
    if network.width % network.heads:
        raise UserError(f"family.network.heads={network.heads}: it does not divide family.network.width={network.width}")
    if network.width % 2:
        raise UserError(f"family.network.width={network.width}: it must be even")
    if settings.history_guidance != 1 and settings.noise == "last_frame":
        raise UserError("family.history_guidance: with family.noise=last_frame, no frame without earlier ones is trained; use per_frame")
    if settings.num_frames >= network.num_frames:
        raise UserError(
            f"family.num_frames={settings.num_frames}: a frame attends to {network.num_frames - 1} earlier ones "
            f"(family.network.num_frames={network.num_frames}); set family.num_frames={network.num_frames - 1} or less"
        )
    for name, value in (("coordinate", "frame"), ("sigma_data", None)):
        found = getattr(objective, name, value)
        if found != value and not isinstance(found, float):
            raise UserError(f"family.objective.{name}={found}: family=transformer needs {value or 'a number, such as 0.5'}")
    low, high = trained_sigma_range(objective)
    if not low <= settings.context_noise <= high:
        raise UserError(f"family.context_noise={settings.context_noise:g}: the objective trains levels from {low:g} to {high:g}")
    if isinstance(config.sampler, OpenLoopSampler) and config.execution.cuda_graphs != "none":
        raise UserError(f"execution.cuda_graphs={config.execution.cuda_graphs}: sampler={config.sampler.name} cannot be recorded; use none")
    if config.data.dataset is None:
        check_frames(settings, spec_of(config.game, config.env).frames)
    check_fits(settings, config.sampler)


def _cost(settings: Transformer, spec: WorldSpec, sampler: Sampler) -> WorldCost:
    """The last call of a frame writes it into the memory. Frames that are finished at the same time are never written. FLOP are those of
    the L frames that a frame attends to, without what is masked."""
    call, shape = network_cost(settings.shape(spec)), settings.shape(spec)
    written = not isinstance(sampler, OpenLoopSampler) or sampler.steps_behind > 0
    steps = nfe(sampler) * (1 if settings.history_guidance == 1 else 2) + written
    memory = 4 * 2 * shape.config.layers * shape.config.num_frames * shape.tokens * shape.config.width
    return WorldCost(call.parameters, call.flops * steps, steps, memory + 8, call.flops * settings.num_frames)


def _update_flops(settings: Transformer, spec: WorldSpec, training: TrainingConfig) -> float:
    """A forward and a backward pass over each frame of the batch."""
    return 3 * network_cost(settings.shape(spec)).flops * settings.network.num_frames * training.examples


def _context(settings: Transformer) -> int:
    return settings.num_frames


FAMILY = WorldFamily(
    about="A causal diffusion transformer over frames, each with a noise level of its own in training.",
    build="diamond_bench.worlds.transformer.world:build_world",
    cost=_cost,
    update_flops=_update_flops,
    context=_context,
    reads=("sampler",),
    open_loop=True,
    check=_check,
    small="transformer_small",
)
