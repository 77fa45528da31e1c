"""The games there are, Atari's and the synthetic ones, and where to play them. What planning asks takes no torch and no emulator."""

import functools
from typing import TYPE_CHECKING, Any

from diamond_bench.config import EnvConfig
from diamond_bench.errors import UserError, nearest

if TYPE_CHECKING:
    import gymnasium
    import numpy as np
    import numpy.typing as npt
    from gymnasium.vector import SyncVectorEnv

    Env = gymnasium.Env[npt.NDArray[np.uint8], int]

SYNTHETIC = ("synthetic/turn", "synthetic/opponent")
"""Those of envs/synthetic.py, whose randomness is known."""
_SUFFIX = "NoFrameskip-v4"


@functools.cache
def games() -> list[str]:
    """Names of all Atari games, in CamelCase as in the paper ("Breakout", "MsPacman"), sorted."""
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    return sorted(name.removesuffix(_SUFFIX) for name in gymnasium.registry if name.endswith(_SUFFIX))


def check_game(game: str) -> str:
    """The name itself if there is such a game, else UserError with the nearest names."""
    if game not in SYNTHETIC and game not in games():
        raise UserError(f"game={game!r}: unknown game: {nearest(game, (*SYNTHETIC, *games()))}")
    return game


def check_env(game: str, config: EnvConfig) -> None:
    """Raises UserError where settings of the environment do not fit the game, or would change nothing in it."""
    if game in SYNTHETIC:
        from diamond_bench.envs.synthetic import check_synthetic

        check_synthetic(game, config)
    elif config.minority_share != EnvConfig().minority_share:
        raise UserError(f"env.minority_share={config.minority_share}: {game} has none; it is of the games {', '.join(SYNTHETIC)}")


def check_policy(policy: str, game: str) -> str:
    """The policy's name if it can collect data in the game, else UserError naming those that can."""
    from diamond_bench.envs import experts

    return experts.check_policy(policy, game)


def environment_id(game: str) -> str:
    """The gymnasium id of a game's raw environment; of a synthetic one, which gymnasium does not know, its name.

    UserError with the nearest names for an unknown game.
    """
    return game if game in SYNTHETIC else f"{check_game(game)}{_SUFFIX}"


@functools.cache
def action_meanings(game: str) -> tuple[str, ...]:
    """Names of a game's minimal action set, in the order of its action numbers (loads the ROM: about 10 ms).

    UserError with the nearest names for an unknown game.
    """
    if game in SYNTHETIC:
        from diamond_bench.envs.synthetic import ACTIONS

        return ACTIONS
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


def make_env(game: str, config: EnvConfig) -> "Env":
    """The environment in which a game is played, whole games long. UserError with the nearest names for an unknown game."""
    if game in SYNTHETIC:
        from diamond_bench.envs.synthetic import SyntheticEnv

        return SyntheticEnv(game, config)
    from diamond_bench.envs.atari import AtariEnv

    return AtariEnv(game, config)


def vector_env(game: str, config: EnvConfig, num_envs: int, life_loss_ends: bool = True) -> "SyncVectorEnv":
    """`num_envs` games stepped together; see `envs.atari.vector_env`. A synthetic game has no lives to lose."""
    if game not in SYNTHETIC:
        from diamond_bench.envs import atari

        return atari.vector_env(game, config, num_envs, life_loss_ends)
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    return SyncVectorEnv([lambda: make_env(game, config)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def score_conditions(game: str, config: EnvConfig) -> dict[str, Any]:
    """How a game is played, as a score's protocol record says it."""
    if game in SYNTHETIC:
        from diamond_bench.envs.synthetic import EPISODE_STEPS

        return {
            "environment": f"{game}, minority share {config.minority_share:g}",
            "sticky_actions": 0.0,
            "no_ops": "none",
            "life_rule": f"no lives; an episode is cut after {EPISODE_STEPS} steps",
            "frame_skip": 1,
            "pooling": "none",
            "resize": f"drawn at {config.frame_size}x{config.frame_size} RGB",
            "action_set": f"all {num_actions(game)}",
        }
    return {
        "environment": environment_id(game),
        "sticky_actions": config.sticky_actions,
        "no_ops": f"1-{config.max_noops}" if config.max_noops else "none",
        "life_rule": "a lost life does not end the episode",
        "frame_skip": config.frame_skip,
        "pooling": "max of the last 2 frames",
        "resize": f"{config.frame_size}x{config.frame_size} RGB, area, after the max",
        "action_set": "minimal",
    }
