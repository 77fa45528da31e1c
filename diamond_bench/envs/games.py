"""The Atari games there are: cheap, without torch and without starting an emulator (planning validates names with it)."""

import functools

from diamond_bench.errors import UserError, nearest

_SUFFIX = "NoFrameskip-v4"


@functools.cache
def games() -> list[str]:
    """Names of all games, in CamelCase as in the paper ("Breakout", "MsPacman"), sorted."""
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    return sorted(name.removesuffix(_SUFFIX) for name in gymnasium.registry if name.endswith(_SUFFIX))


def check_game(game: str) -> str:
    """The name itself if there is such a game, else UserError with the nearest names."""
    if game not in games():
        raise UserError(f"game={game!r}: unknown game: {nearest(game, games())}")
    return game


def check_policy(policy: str, game: str) -> str:
    """The policy's name if it can collect data in the game, else UserError naming those that can."""
    from diamond_bench.envs import experts

    return experts.check_policy(policy, game)


def environment_id(game: str) -> str:
    """The gymnasium id of a game's raw environment. UserError with the nearest names for an unknown game."""
    return f"{check_game(game)}{_SUFFIX}"


@functools.cache
def action_meanings(game: str) -> tuple[str, ...]:
    """Names of a game's minimal action set, in the order of its action numbers (loads the ROM: about 10 ms).

    UserError with the nearest names for an unknown game.
    """
    import ale_py
    import ale_py.roms
    import gymnasium

    rom = gymnasium.spec(environment_id(game)).kwargs["game"]
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.loadROM(str(ale_py.roms.get_rom_path(rom)))
    return tuple(action.name for action in emulator.getMinimalActionSet())


def num_actions(game: str) -> int:
    """Size of a game's minimal action set. UserError with the nearest names for an unknown game."""
    return len(action_meanings(game))
