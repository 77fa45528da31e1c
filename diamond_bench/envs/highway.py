"""Driving in traffic (highway-env) for planning, without the package."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.config import EnvConfig
from diamond_bench.envs.family import EnvFamily
from diamond_bench.envs.packages import check_package
from diamond_bench.envs.roads import ACTIONS, IDS, MAX_STEPS
from diamond_bench.errors import UserError
from diamond_bench.spaces import FrameSpec

if TYPE_CHECKING:
    import numpy as np

    from diamond_bench.envs.family import Env
    from diamond_bench.envs.policies import Policy

PREFIX = "highway/"


def names() -> tuple[str, ...]:
    """All games."""
    return tuple(f"{PREFIX}{name}" for name in IDS)


def _frames(game: str, config: EnvConfig) -> FrameSpec:
    return FrameSpec.square(config.frame_size)


def _check(game: str, config: EnvConfig) -> None:
    check_package("highway_env", game)
    if os.environ.get("SDL_VIDEODRIVER") == "dummy":
        raise UserError(f"{game}: with SDL_VIDEODRIVER=dummy all its pictures are black; unset the variable. No display is needed")


def _make(game: str, config: EnvConfig) -> "Env":
    _check(game, config)
    from diamond_bench.envs.highway_env import HighwayEnv

    return HighwayEnv(game.removeprefix(PREFIX), config.frame_size)


def _conditions(game: str, config: EnvConfig) -> Mapping[str, Any]:
    return {
        "environment": f"{game} of highway-env",
        "sticky_actions": 0.0,
        "no_ops": "none",
        "life_rule": "an accident or leaving the road ends an episode",
        "frame_skip": 1,
        "pooling": "none",
        "resize": f"{config.frame_size}x{config.frame_size} RGB, area",
        "action_set": "acceleration and steering",
    }


def _driver(rng: "np.random.Generator") -> "Policy":
    from diamond_bench.envs.driver import Driver

    return Driver(rng)


FAMILY = EnvFamily(
    about="driving in traffic, seen from above ([worlds3d.md](worlds3d.md#driving))",
    names=names,
    frames=_frames,
    actions=lambda game: ACTIONS,
    make=_make,
    conditions=_conditions,
    reads=frozenset({"frame_size"}),
    action_kind="Box",
    max_steps=MAX_STEPS,
    saves=True,
    check=_check,
    random=lambda env: False,
    experts=dict.fromkeys(names(), _driver),
)
