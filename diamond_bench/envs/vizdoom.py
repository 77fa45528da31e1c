"""Doom's campaign maps (Freedoom) and ViZDoom's scenarios for planning, without the package vizdoom."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.config import EnvConfig
from diamond_bench.envs.family import EnvFamily, Truth
from diamond_bench.envs.first_person import ACTIONS
from diamond_bench.envs.packages import check_package
from diamond_bench.envs.vizdoom_maps import FRAME_SKIP, MAPS, RENDERED, SCENARIOS
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec, FrameSpec

if TYPE_CHECKING:
    import numpy as np

    from diamond_bench.envs.family import Env
    from diamond_bench.envs.policies import Policy

PREFIX = "vizdoom/"
DEFAULT = FrameSpec(36, 64)
"""Stored frames where the config sets no size: a fifth of the engine's pictures, so that each pixel is the mean of 5 x 5."""


def map_of(game: str) -> str:
    """The map or scenario of a game's name."""
    return game.removeprefix(PREFIX)


def names() -> tuple[str, ...]:
    """All games. The first one is the scenario whose maze is explored."""
    return tuple(f"{PREFIX}{name}" for name in ("my_way_home", *(name for name in SCENARIOS if name != "my_way_home"), *MAPS))


def _frames(game: str, config: EnvConfig) -> FrameSpec:
    return FrameSpec(config.frame_height or DEFAULT.height, config.frame_width or DEFAULT.width)


def _actions(game: str) -> ActionSpec:
    return ACTIONS


def _check(game: str, config: EnvConfig) -> None:
    check_package("vizdoom", game)
    sides = {"env.frame_height": config.frame_height, "env.frame_width": config.frame_width}
    given = {key: side for key, side in sides.items() if side is not None}
    drawn = dict(zip(sides, RENDERED, strict=True))
    shape = " ".join(f"{key}={side}" for key, side in drawn.items())
    for key, side in given.items():
        if len(given) == 1:
            other = next(name for name in sides if name != key)
            raise UserError(f"{key}={side}: set {other} too. The engine's pictures have {shape}")
        if side > drawn[key]:
            raise UserError(f"{key}={side}: larger than the engine's pictures, which have {shape}; set at most {key}={drawn[key]}")


def _make(game: str, config: EnvConfig) -> "Env":
    check_package("vizdoom", game)
    from diamond_bench.envs.vizdoom_env import VizdoomEnv

    return VizdoomEnv(map_of(game), _frames(game, config))


def _conditions(game: str, config: EnvConfig) -> Mapping[str, Any]:
    frames, (height, width) = _frames(game, config), RENDERED
    campaign = map_of(game) in MAPS
    return {
        "environment": f"{game}, {MAPS[map_of(game)] if campaign else 'scenario of ViZDoom'}",
        "sticky_actions": 0.0,
        "no_ops": "none",
        "life_rule": "death ends an episode",
        "frame_skip": FRAME_SKIP,
        "pooling": "none",
        "resize": f"{width}x{height} to {frames.width}x{frames.height} RGB, area",
        "action_set": "13 keys and clicks, 23 x 15 bins of mouse motion",
    }


def _explorer(rng: "np.random.Generator") -> "Policy":
    from diamond_bench.envs.explorer import Explorer

    return Explorer(rng)


def _looker(rng: "np.random.Generator") -> "Policy":
    from diamond_bench.envs.explorer import Looker

    return Looker(rng)


def _truth(game: str) -> Truth:
    from diamond_bench.envs.poses import read_poses

    return Truth(poses=read_poses)


FAMILY = EnvFamily(
    about="Freedoom's campaign maps and ViZDoom's scenarios, seen in the first person ([worlds3d.md](worlds3d.md))",
    names=names,
    frames=_frames,
    actions=_actions,
    make=_make,
    conditions=_conditions,
    reads=frozenset({"frame_height", "frame_width"}),
    pixel_bytes=1.5,
    action_kind="MultiDiscrete",
    saves=True,
    check=_check,
    experts=dict.fromkeys(names(), _explorer),
    policies={"look_around": _looker},
    truth=_truth,
)
