"""The family `oracle`: the game itself in place of a world model. Planning imports this file, so it imports no torch."""

from dataclasses import dataclass

from diamond_bench.config import RunConfig, Sampler
from diamond_bench.config.worlds import WorldCost, WorldFamily, WorldSettings
from diamond_bench.envs.games import family_of, games_with, truth
from diamond_bench.errors import UserError
from diamond_bench.spaces import WorldSpec


@dataclass(frozen=True)
class Oracle(WorldSettings):
    """It has no settings."""

    name: str = "oracle"


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
    if protocol == "agent" and truth(config.game).next_frames is None:
        known = ",".join(games_with(lambda of: of.next_frames))
        raise UserError(f"family=oracle: agents are trained only in the true dynamics of games=[{known}], not of {config.game}")


FAMILY = WorldFamily(
    about="The true dynamics: the game itself goes on from the state in which the real play was. The ceiling for every world model.",
    open="diamond_bench.worlds.oracle.world:open_world",
    outcomes=True,
    cost=_cost,
    check=_check,
)
