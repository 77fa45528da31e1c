"""The family `transformer`: a causal diffusion transformer over frames, each with its own noise level in training. Planning imports this
file, so it imports no torch."""

from dataclasses import dataclass
from typing import Literal

from diamond_bench.config import CascadeSampler, FactoredObjective, Objective, OdeSampler, RunConfig, Sampler, TrainingConfig, setting
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
    if isinstance(sampler, OdeSampler) and sampler.s_cond > 0:
        raise UserError(f"sampler.s_cond={sampler.s_cond:g}: family=transformer has family.context_noise instead; use sampler.s_cond=0")
    try:
        check_sampler(sampler, settings.objective)
    except UserError as error:
        raise UserError(str(error).replace("objective.", "family.objective.")) from None


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
    if config.data.dataset is None:
        check_frames(settings, spec_of(config.game, config.env).frames)
    check_fits(settings, config.sampler)


def _cost(settings: Transformer, spec: WorldSpec, sampler: Sampler) -> WorldCost:
    """The last call of a frame writes it into the memory."""
    call, shape = network_cost(settings.shape(spec)), settings.shape(spec)
    steps = nfe(sampler) * (1 if settings.history_guidance == 1 else 2) + 1
    memory = 4 * 2 * shape.config.layers * (shape.config.num_frames - 1) * shape.tokens * shape.config.width
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
    check=_check,
)
