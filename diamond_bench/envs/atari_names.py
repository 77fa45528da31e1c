"""Names of the Atari games of ale-py."""

import functools

from diamond_bench.errors import UserError, nearest

_SUFFIX = "NoFrameskip-v4"


@functools.cache
def names() -> list[str]:
    """Names of all Atari games, in CamelCase as in the paper ("Breakout", "MsPacman"), sorted."""
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    return sorted(name.removesuffix(_SUFFIX) for name in gymnasium.registry if name.endswith(_SUFFIX))


def environment_id(game: str) -> str:
    """The gymnasium id of a game's raw environment. Raises UserError with the nearest names for an unknown game."""
    if game not in names():
        raise UserError(f"game={game!r}: unknown game: {nearest(game, names())}")
    return f"{game}{_SUFFIX}"
