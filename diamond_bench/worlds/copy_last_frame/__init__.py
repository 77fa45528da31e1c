"""The family `copy_last_frame`: every imagined frame is the last real one. Planning imports this file, so it imports no torch."""

from dataclasses import dataclass

from diamond_bench.config import RunConfig, Sampler
from diamond_bench.config.worlds import WorldCost, WorldFamily, WorldSettings
from diamond_bench.errors import UserError
from diamond_bench.spaces import WorldSpec


@dataclass(frozen=True)
class CopyLastFrame(WorldSettings):
    """It has no settings."""

    name: str = "copy_last_frame"


def _cost(settings: CopyLastFrame, spec: WorldSpec, sampler: Sampler) -> WorldCost:
    return WorldCost(state_bytes=spec.frames.pixels * 3 * 4 + 8)  # a float32 frame and an action


def _check(settings: CopyLastFrame, config: RunConfig, protocol: str) -> None:
    if protocol == "agent":
        raise UserError("family=copy_last_frame: it has no rewards, so no agent can be trained in it; family=oracle has them")


FAMILY = WorldFamily(
    about="Repeats the last real frame: the floor for every world model.",
    open="diamond_bench.worlds.copy_last_frame.world:open_world",
    cost=_cost,
    check=_check,
)
