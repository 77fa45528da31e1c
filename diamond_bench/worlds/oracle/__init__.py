"""The family `oracle`: the game itself in place of a world model. Planning imports this file, so it imports no torch."""

from dataclasses import dataclass

from diamond_bench.config import RunConfig, Sampler, setting
from diamond_bench.config.worlds import WorldCost, WorldFamily, WorldSettings, always
from diamond_bench.envs.games import family_of, frames, games_with, truth
from diamond_bench.errors import UserError
from diamond_bench.spaces import WorldSpec


@dataclass(frozen=True)
class Oracle(WorldSettings):
    """Damage to the frames that the oracle shows. Its dynamics, rewards and ends stay true, and 0 means no damage."""

    name: str = "oracle"
    dropped: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Probability that a small object is missing from all frames of an imagined game."""
    flicker: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Probability that a small object is missing from a frame."""
    blur: float = setting(0.0, minimum=0.0, maximum=100.0)
    """Standard deviation of a Gaussian blur, in pixels."""
    token_side: int = setting(0, minimum=0)
    """Side in pixels of the square patches of a frame, each of which is shown in one of 512 colours."""


def _cost(settings: Oracle, spec: WorldSpec, sampler: Sampler) -> WorldCost:
    return WorldCost(state_bytes=1 << 18)  # an emulator with its last two screens; a synthetic game takes under 1 KB


def _check(settings: Oracle, config: RunConfig, protocol: str) -> None:
    if config.data.dataset is not None:
        raise UserError(
            f"family=oracle: it plays the game from recorded seeds and actions, and your dataset {config.data.dataset} holds no seeds; "
            "leave data.dataset out: a dataset is then collected here"
        )
    if not family_of(config.game).saves:
        raise UserError(f"family=oracle: it restores saved states of the game, and those of {config.game} cannot be saved; leave it out")
    if config.env.sticky_actions > 0:
        raise UserError(
            f"family=oracle: with env.sticky_actions={config.env.sticky_actions} it would know which actions the emulator is going to "
            "repeat; use env.sticky_actions=0"
        )
    for key, probability in (("dropped", settings.dropped), ("flicker", settings.flicker)):
        if probability and not truth(config.game).erasable:
            known = ",".join(games_with(lambda of: of.erasable))
            raise UserError(f"family.{key}={probability:g}: objects can be removed from frames of games=[{known}], not of {config.game}")
    shown = frames(config.game, config.env)
    if settings.token_side and any(side % settings.token_side for side in shown.sides):
        raise UserError(f"family.token_side={settings.token_side}: it does not divide the sides of frames of {shown} pixels")
    if protocol == "agent" and truth(config.game).next_frames is None:
        known = ",".join(games_with(lambda of: of.next_frames))
        raise UserError(f"family=oracle: agents are trained only in the true dynamics of games=[{known}], not of {config.game}")


FAMILY = WorldFamily(
    about="The true dynamics: the game itself goes on from the state in which the real play was. The ceiling for every world model.",
    open="diamond_bench.worlds.oracle.world:open_world",
    outcomes=always,
    cost=_cost,
    check=_check,
)
