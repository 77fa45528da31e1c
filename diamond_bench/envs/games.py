"""All games, by family, and their environments. The functions for planning need neither torch nor an emulator."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from diamond_bench.config import EnvConfig, imported
from diamond_bench.envs.family import EnvFamily, Truth
from diamond_bench.errors import UserError, joined, nearest
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from gymnasium.vector import SyncVectorEnv

    from diamond_bench.envs.family import Env
    from diamond_bench.envs.policies import Policy
    from diamond_bench.envs.poses import Poses
    from diamond_bench.envs.ram_state import States
    from diamond_bench.envs.sights import Sights

ENV_FAMILIES: dict[str, str] = {
    "": "diamond_bench.envs.atari_games:FAMILY",
    "synthetic/": "diamond_bench.envs.synthetic:FAMILY",
    "vizdoom/": "diamond_bench.envs.vizdoom:FAMILY",
    "highway/": "diamond_bench.envs.highway:FAMILY",
    "maze/": "diamond_bench.envs.maze:FAMILY",
}
"""Families by the prefix of their games' names, up to and including a slash: "module:object" of an `EnvFamily`."""

POLICIES = ("random", "expert", "look_around")
"""Policies that collect data, by the value of `data.policy`. An agent of the store is a further one."""

_UNREAD = ("frame_size", "pooling")
"""Fields of `EnvConfig` that conf/env or a scale sets for all games. A family that does not use them ignores them, and refuses others."""

_SQUARE, _SIDES = "frame_size", ("frame_height", "frame_width")


def family_of(game: str) -> EnvFamily:
    """The family of a game, by its name. Raises UserError with the nearest games if there is none."""
    head, slash, _ = game.partition("/")
    prefix = f"{head}/" if slash else ""
    if prefix not in ENV_FAMILIES:
        raise UserError(_unknown(game))
    family: EnvFamily = imported(ENV_FAMILIES[prefix])
    return family


def games() -> list[str]:
    """Names of all games, family by family."""
    return [name for path in ENV_FAMILIES.values() for name in imported(path).names()]


def check_game(game: str) -> str:
    """Returns the name if there is such a game. Otherwise raises UserError with the nearest names of all families."""
    if game not in family_of(game).names():
        raise UserError(_unknown(game))
    return game


def _unknown(game: str) -> str:
    """The message for a name that is no game. A name without its prefix, such as `E1M1`, is found too."""
    bare = [name for name in games() if name.rpartition("/")[2].casefold() == game.rpartition("/")[2].casefold()]
    return f"game={game!r}: unknown game: " + (f"did you mean {joined(bare)}?" if bare else nearest(game, games()))


def check_env(game: str | None, config: EnvConfig) -> None:
    """Raises UserError if settings of the environment do not fit the game, or would have no effect in it.

    None stands for the user's own dataset, whose frames are prepared like Atari's, except that they need not be square.
    """
    family = family_of(game or "")
    read = family.reads if game is not None else {*family.reads, "frame_height", "frame_width"}
    for key in (f.name for f in fields(EnvConfig) if f.name not in (*read, *_UNREAD)):
        if getattr(config, key) != getattr(EnvConfig(), key):
            whose = game or "a dataset of your own"
            other = f"use env.{_SQUARE}" if key in _SIDES and _SQUARE in read else "leave it out"
            raise UserError(f"env.{key}={getattr(config, key)}: {whose} has none, so it has no effect; {other}")
    if game is not None:
        family.check(game, config)


def unread_settings(game: str, config: EnvConfig) -> Iterator[tuple[str, str]]:
    """(name, reason) of the fields of `EnvConfig` that have no effect in this game."""
    family = family_of(game)
    for name in (name for name in _UNREAD if name not in family.reads):
        sides = name == _SQUARE and family.reads.issuperset(_SIDES)
        yield name, f"games=[{game}]" + (f"; use {' and '.join(f'env.{side}' for side in _SIDES)}" if sides else "")
    yield from family.unread(config).items()


def frames(game: str, config: EnvConfig) -> FrameSpec:
    """Height and width of a game's frames."""
    return family_of(game).frames(game, config)


@functools.cache
def actions(game: str) -> ActionSpec:
    """A game's actions, with their names (an Atari game loads its ROM). Raises UserError for an unknown game."""
    return family_of(check_game(game)).actions(game)


def spec(game: str, config: EnvConfig) -> WorldSpec:
    """Frames and actions of a game, and whether it has rewards and ends. Raises UserError for an unknown game."""
    family = family_of(game)
    return WorldSpec(family.frames(game, config), actions(game), family.rewards, family.ends)


def num_actions(game: str) -> int:
    """Number of actions that an agent chooses from. Raises UserError for an unknown game, and if its actions are not Discrete."""
    if actions(game).kind != "Discrete":
        raise UserError(f"{game}: its actions are {actions(game)}; an agent needs Discrete ones")
    return actions(game).sizes[0]


def make_env(game: str, config: EnvConfig) -> "Env":
    """The environment of a game, for whole games.

    Raises UserError with the nearest names for an unknown game. Here or in a later step, it also raises UserError if the environment
    contradicts its family's description.
    """
    from diamond_bench.envs.checked import CheckedEnv

    return CheckedEnv(family_of(check_game(game)).make(game, config), game, spec(game, config))


def vector_env(game: str, config: EnvConfig, num_envs: int, life_loss_ends: bool = True) -> "SyncVectorEnv":
    """`num_envs` games stepped together, each reset within the step that ends it (AutoresetMode.SAME_STEP).

    Observations are (num_envs, h, w, 3) uint8. When an episode ends, the observation is the next episode's first frame.
    `infos["final_obs"][i]` is the true final observation, `infos["_final_obs"]` its mask, and `infos["final_info"]` the final step's info.
    Every environment has its own buffers, so each behaves exactly as it would alone. `reset(seed=s)` gives environment i the seed s + i.
    `life_loss_ends` applies `LifeLossEnds` if the game has lives: on in training, off in tests.
    """
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    from diamond_bench.envs.lives import LifeLossEnds

    def make() -> "Env":
        env = make_env(game, config)
        return LifeLossEnds(env) if life_loss_ends and family_of(game).lives else env

    makers: list[Callable[[], Env]] = [make] * num_envs
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def score_conditions(game: str, config: EnvConfig) -> Mapping[str, Any]:
    """How a game is played, for a score's protocol record."""
    return family_of(game).conditions(game, config)


def truth(game: str) -> Truth:
    """The ground truth about a game beyond its frames."""
    return family_of(game).truth(game)


def games_with(known: Callable[[Truth], object]) -> list[str]:
    """The games of all families with some ground truth, such as `lambda truth: truth.objects`."""
    return [game for game in games() if known(truth(game))]


def all_object_names() -> list[str]:
    """The objects of all families' games, each once."""
    return list(dict.fromkeys(name for path in ENV_FAMILIES.values() for name in imported(path).objects))


def object_names(game: str) -> tuple[str, ...]:
    """The objects whose positions can be read from a game's memory, in order. Raises UserError with the games for which that is
    possible."""
    objects = truth(game).objects
    if not objects:
        known = ", ".join(games_with(lambda truth: truth.objects))
        raise UserError(
            f"metrics: state reads objects from a game's memory, whose table there is for {known}, not for {game}; "
            "choose one of these games",
            keys=("metrics",),
        )
    return objects


def read_states(game: str, ram: "npt.NDArray[np.uint8]") -> "States":
    """Positions of a game's objects, from memories (..., 128). Raises UserError, see `object_names`."""
    object_names(game)
    states = truth(game).states
    assert states is not None, f"{game}: objects without a way to read them"
    return states(ram)


def check_poses(game: str) -> None:
    """Raises UserError for a game whose memory does not hold where the player stands and looks."""
    if truth(game).poses is None:
        known = dict.fromkeys(f"{name.partition('/')[0]}/..." for name in games_with(lambda truth: truth.poses))
        raise UserError(
            f"metrics: pose reads where the player stands and looks, which is known for {', '.join(known)}, not for {game}; "
            "choose one of these games",
            keys=("metrics",),
        )


def read_poses(game: str, ram: "npt.NDArray[np.uint8]") -> "Poses":
    """Where the player stands and looks, from memories (..., 128). Raises UserError, see `check_poses`."""
    check_poses(game)
    poses = truth(game).poses
    assert poses is not None
    return poses(ram)


def check_sights(game: str) -> None:
    """Raises UserError for a game whose memory does not hold which things a frame shows."""
    if truth(game).sights is None:
        known = ", ".join(games_with(lambda truth: truth.sights))
        raise UserError(
            f"metrics: memory_gain needs the things that each frame shows, which are known for {known}, not for {game}; "
            "choose one of these games",
            keys=("metrics",),
        )


def read_sights(game: str, ram: "npt.NDArray[np.uint8]") -> "Sights":
    """The things that frames show, from their memories (N, 128). Raises UserError, see `check_sights`."""
    check_sights(game)
    sights = truth(game).sights
    assert sights is not None
    return sights(ram)


def is_random(game: str, settings: Mapping[str, Any]) -> bool | None:
    """Whether a game's next frame is random, given a variant's settings by dotted key. None if they do not determine it."""
    env = {key.removeprefix("env."): value for key, value in settings.items() if key.startswith("env.")}
    return family_of(game).random(env)


def check_policy(policy: str, game: str) -> str:
    """The policy's name if it can collect data in the game. Otherwise raises UserError with those that can."""
    if policy not in POLICIES:
        raise UserError(
            f"data.policy={policy!r}: {nearest(policy, POLICIES)} (or the id of a finished agent in the store; "
            f"or bring your own episodes as a Minari dataset: data.dataset=FOLDER)"
        )
    if policy == "expert" and game not in family_of(game).experts:
        raise UserError(
            f"data.policy=expert: no scripted expert for {game}, only for {', '.join(_with_experts())}. "
            f"Use data.policy=random, or bring your own episodes: data.dataset=FOLDER"
        )
    if policy not in ("random", "expert", *(known := family_of(game).policies)):
        raise UserError(f"data.policy={policy}: not for {game}; {nearest(policy, ('random', 'expert', *known))}")
    return policy


def _with_experts() -> list[str]:
    """The games with a scripted policy. A family all of whose games have one is one entry."""
    known = list[str]()
    for prefix, path in ENV_FAMILIES.items():
        family: EnvFamily = imported(path)
        known += [f"{prefix}..."] if set(family.experts) == set(family.names()) else sorted(family.experts)
    return known


def make_policy(policy: str, game: str, rng: "np.random.Generator") -> "Policy":
    """A policy for one episode. Raises UserError, see `check_policy`."""
    from diamond_bench.envs.policies import random_policy

    check_policy(policy, game)
    family = family_of(game)
    if policy == "random":
        return random_policy(actions(game), rng)
    return family.experts[game](rng) if policy == "expert" else family.policies[policy](rng)


def _frames_in_words(family: EnvFamily) -> str:
    if "frame_size" in family.reads:
        return "env.frame_size, square"
    size = str(family.frames(family.names()[0], EnvConfig()))
    return f"env.frame_height x env.frame_width, or {size}" if "frame_height" in family.reads else size


def environments_table() -> str:
    """The families as a Markdown table for docs/data.md, one row per family."""
    lines = ["| Games | What they are | Frames | Actions | Rewards | Ends |", "| --- | --- | --- | --- | --- | --- |"]
    for prefix, path in ENV_FAMILIES.items():
        family: EnvFamily = imported(path)
        first = family.names()[0]
        gives = ("yes" if given else "no" for given in (family.rewards, family.ends))
        cells = (f"`{prefix}...`" if prefix else f"`{first}`, ...", family.about, _frames_in_words(family), family.action_kind, *gives)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
