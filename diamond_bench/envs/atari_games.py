"""The Atari games for planning, without their emulator."""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.config import EnvConfig
from diamond_bench.envs.atari_names import environment_id, names
from diamond_bench.envs.experts import EXPERTS
from diamond_bench.envs.family import EnvFamily, Truth
from diamond_bench.envs.ram_state import OBJECTS, read_states
from diamond_bench.spaces import ActionSpec, FrameSpec

if TYPE_CHECKING:
    import numpy as np

    from diamond_bench.envs.family import Env
    from diamond_bench.envs.policies import Policy


def _frames(game: str, config: EnvConfig) -> FrameSpec:
    return FrameSpec.square(config.frame_size)


def _actions(game: str) -> ActionSpec:
    """The minimal action set, in the order of its action numbers."""
    import ale_py
    import ale_py.roms
    import gymnasium

    rom = gymnasium.spec(environment_id(game)).kwargs["game"]
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.loadROM(str(ale_py.roms.get_rom_path(rom)))
    meanings = tuple(action.name for action in emulator.getMinimalActionSet())
    return ActionSpec.discrete(len(meanings), meanings)


def _make(game: str, config: EnvConfig) -> "Env":
    import ale_py

    from diamond_bench.envs.atari import AtariEnv

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # without the emulator's banner
    return AtariEnv(game, config)


def _conditions(game: str, config: EnvConfig) -> Mapping[str, Any]:
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


def _unread(config: EnvConfig) -> Mapping[str, str]:
    return {"pooling": "env.frame_skip=1"} if config.frame_skip == 1 else {}


def _random(env: Mapping[str, Any]) -> bool | None:
    sticky = env.get("sticky_actions")
    return None if sticky is None else bool(sticky)


def _without_draws(expert: "Callable[[], Policy]") -> "Callable[[np.random.Generator], Policy]":
    return lambda rng: expert()


def _truth(game: str) -> Truth:
    return Truth(objects=tuple(OBJECTS[game]), states=functools.partial(read_states, game)) if game in OBJECTS else Truth()


FAMILY = EnvFamily(
    about="Atari 2600 games of ale-py, with the authors' preprocessing",
    names=names,
    frames=_frames,
    actions=_actions,
    make=_make,
    conditions=_conditions,
    reads=frozenset({"frame_skip", "pooling", "frame_size", "max_noops", "sticky_actions"}),
    saves=True,
    lives=True,
    unread=_unread,
    random=_random,
    experts={game: _without_draws(expert) for game, expert in EXPERTS.items()},
    objects=tuple(dict.fromkeys(name for table in OBJECTS.values() for name in table)),
    truth=_truth,
)
