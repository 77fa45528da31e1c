"""The interface of a family of environments, as plain data and functions. Nothing here loads an emulator, gymnasium or torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diamond_bench.config import EnvConfig
from diamond_bench.spaces import ActionKind, ActionSpec, FrameSpec

if TYPE_CHECKING:
    import gymnasium
    import numpy as np
    import numpy.typing as npt

    from diamond_bench.envs.policies import Policy
    from diamond_bench.envs.poses import Poses
    from diamond_bench.envs.ram_state import States
    from diamond_bench.envs.sights import Sights

    Env = gymnasium.Env[npt.NDArray[np.uint8], Any]
    NextFrames = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Truth:
    """Ground truth about a game beyond its frames."""

    next_frames: "Callable[[npt.NDArray[np.uint8], Any, Mapping[str, Any]], NextFrames] | None" = None
    """next_frames(past, action, facts): the distribution of the next frame after `past`, true frames (L, 3, h, w) uint8, oldest first. It
    returns the modes (m, 3, h, w) uint8 and their probabilities (m,), the less likely first. `facts`: those of dataset.json."""
    past_frames: int = 0
    """Minimum number of past frames from which `next_frames` can derive the state."""
    objects: tuple[str, ...] = ()
    """Names of the objects whose positions `states` reads."""
    states: "Callable[[npt.NDArray[np.uint8]], States] | None" = None
    """Positions of the objects, from the memories (..., 128) in `info["ram"]`."""
    poses: "Callable[[npt.NDArray[np.uint8]], Poses] | None" = None
    """Where the player stands and looks, from the same memories."""
    sights: "Callable[[npt.NDArray[np.uint8]], Sights] | None" = None
    """The things that frames show, from their memories (N, 128)."""
    erasable: tuple[str, ...] = ()
    """Names of the small objects that `erased` can remove from a frame."""
    erased: "Callable[[npt.NDArray[np.uint8], npt.NDArray[np.bool_]], npt.NDArray[np.uint8]] | None" = None
    """erased(frames, missing): true frames (b, 3, h, w) without the objects that `missing`, (b, number of erasable objects), marks."""
    rewards: "Callable[[Mapping[str, Any]], tuple[float, float]] | None" = None
    """rewards(facts): mean reward per step of uniformly random play, and of the best policy that knows the state."""


def _no_check(game: str, config: EnvConfig) -> None:
    pass


def _nothing_unread(config: EnvConfig) -> Mapping[str, str]:
    return {}


def _no_facts(config: EnvConfig) -> Mapping[str, Any]:
    return {}


def _unknown(env: Mapping[str, Any]) -> bool | None:
    return None


def _no_truth(game: str) -> Truth:
    return Truth()


@dataclass(frozen=True)
class EnvFamily:
    """A family of environments: one module and one line of `ENV_FAMILIES` in envs/games.py.

    Planning imports the module, so it must load torch and emulators within its functions only. The environments of `make` have observations
    (height, width, 3) uint8, RGB, and the actions of `actions`. Their info may have `ram` ((128,) uint8, the state that the family's
    experts and `truth` read) and `life_loss` (bool).
    """

    about: str
    """One sentence for tables in the documentation."""
    names: Callable[[], Sequence[str]]
    """Names of all its games. Each begins with the family's prefix."""
    frames: Callable[[str, EnvConfig], FrameSpec]
    """frames(game, config): height and width of its frames."""
    actions: Callable[[str], ActionSpec]
    """actions(game): its actions, with their names."""
    make: "Callable[[str, EnvConfig], Env]"
    """make(game, config): the environment for whole games."""
    conditions: Callable[[str, EnvConfig], Mapping[str, Any]]
    """conditions(game, config): how the game is played, for a score's protocol record."""
    reads: frozenset[str] = frozenset()
    """Names of the fields of `EnvConfig` that its games use. All other fields must have their neutral value."""
    pixel_bytes: float | None = None
    """Bytes per pixel of a compressed frame, for estimates of disk. None is the value of Atari's flat pictures, 0.12."""
    action_kind: ActionKind = "Discrete"
    """The kind of the actions of all its games, for planning: `actions` may take long."""
    rewards: bool = True
    """Whether its games have rewards. If not, the reward that `step` returns is ignored."""
    ends: bool = True
    """Whether an episode can end by itself."""
    max_steps: int | None = None
    """Every episode of its games is truncated after this many steps. None if no common limit is known."""
    fixed_length: bool = False
    """Whether no episode ends before `max_steps`."""
    saves: bool = False
    """Whether its environments have `save_state()`, which returns plain data (numbers, text and tensors), and `load_state(data)`, which
    continues exactly from there. Resuming an agent's training and the world-model family `oracle` need both."""
    lives: bool = False
    """Whether a lost life ends an episode of an agent's training (info["life_loss"], `LifeLossEnds`)."""
    check: Callable[[str, EnvConfig], None] = _no_check
    """check(game, config): raises UserError if settings do not fit the game."""
    unread: Callable[[EnvConfig], Mapping[str, str]] = _nothing_unread
    """unread(config): fields of `reads` that have no effect given the others, each with the reason."""
    facts: Callable[[EnvConfig], Mapping[str, Any]] = _no_facts
    """facts(config): facts about such an environment for dataset.json."""
    random: Callable[[Mapping[str, Any]], bool | None] = _unknown
    """random(env): whether the next frame is random given frames and actions. `env` holds the known settings of a variant, by the names of
    `EnvConfig`. None if they do not determine it."""
    experts: "Mapping[str, Callable[[np.random.Generator], Policy]]" = field(default_factory=dict)
    """experts[game](rng): a scripted policy for one episode. A policy that draws nothing ignores `rng`."""
    policies: "Mapping[str, Callable[[np.random.Generator], Policy]]" = field(default_factory=dict)
    """Further scripted policies for all its games, by the value of `data.policy`, which is registered in `games.POLICIES`."""
    objects: tuple[str, ...] = ()
    """Names of the objects that `truth` of any of its games reads. The metric `state` has columns for each."""
    truth: Callable[[str], Truth] = _no_truth
    """truth(game): the ground truth about it."""
