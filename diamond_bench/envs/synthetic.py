"""Small pixel worlds with known randomness: the true distribution of the next frame follows from past frames and an action.

A world is a board of 8 x 8 cells. A walker (white) moves at random, or a light changes at random. The player (green), in the bottom row,
obeys its actions. The environment and `next_frames` use the same function `outcomes` of a world, so the two cannot differ. Without torch.
"""

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from diamond_bench.config import EnvConfig
from diamond_bench.envs.family import EnvFamily, Truth
from diamond_bench.envs.lives import Frame
from diamond_bench.envs.policies import Policy, Ram
from diamond_bench.errors import UserError, nearest
from diamond_bench.spaces import ActionSpec, FrameSpec

CELLS = 8
"""Cells per side of the board. The frame size is a multiple of it."""
EPISODE_STEPS = 2015
"""Steps after which an episode is truncated (a time limit, not an end). It contains two of the paper's references of 8 + 1000 frames."""
ACTIONS = ("NOOP", "RIGHT", "LEFT")
_MOVES = (0, 1, -1)
_WALKER, _PLAYER = (255, 255, 255), (0, 158, 115)
_LIGHTS = ((0, 114, 178), (213, 94, 0))
"""Colours of the light: blue and red."""
_LIGHT_CELL = (4, 0)
_HEADINGS = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""(rows, columns) of a step up, right, down, left. The next entry is a turn to the right."""
_FIELD_ROWS = CELLS - 1
_RAM = 128


@dataclass(frozen=True)
class State:
    """The complete state of a world."""

    row: int
    """Row of the walker. 0 is the top."""
    column: int
    heading: int
    """Direction of the walker's last step, an index of _HEADINGS. Always 0 in a world that does not use it."""
    player: int
    """Column of the player."""
    light: int = 0
    """Index of _LIGHTS. Always 0 in a world without a light."""


_FIELDS = len(fields(State))
Outcomes = list[tuple[float, State]]
"""The outcomes of a step: probabilities, which sum to 1, and states. Of two, the less likely comes first."""


@dataclass(frozen=True)
class World:
    """The rules of one world."""

    past_frames: int
    """Number of frames that determine the state."""
    ranges: tuple[Iterable[int], ...]
    """Values of the fields of a state, in their order. A start is drawn uniformly from all their combinations."""
    start: Callable[[np.random.Generator], State]
    outcomes: Callable[[State, int, float], Outcomes]
    """outcomes(state, action, probability of the less likely outcome)."""
    decode: Callable[[list[tuple[int, int]], int], State]
    """decode((row, column) of the walker in each of the last `past_frames` frames, column of the player in the last). Without the light."""
    reward: Callable[[State, State], float]
    """reward(state before a step, state after it)."""
    objects: Mapping[str, tuple[tuple[int, int, int], ...]] = field(default_factory=lambda: {"walker": (_WALKER,), "player": (_PLAYER,)})
    """The colours (RGB) that each object can have."""


def _moved(state: State, action: int) -> State:
    return replace(state, player=min(max(state.player + _MOVES[action], 0), CELLS - 1))


def _turn_start(rng: np.random.Generator) -> State:
    rows, columns, headings, players = (int(rng.integers(n)) for n in (_FIELD_ROWS, CELLS, len(_HEADINGS), CELLS))
    return State(rows, columns, headings, players)


def _turn_outcomes(state: State, action: int, left: float) -> Outcomes:
    moved = _moved(state, action)
    found: Outcomes = []
    for probability, turn in ((left, -1), (1.0 - left, 1)):
        heading = (state.heading + turn) % len(_HEADINGS)
        row, column = state.row + _HEADINGS[heading][0], state.column + _HEADINGS[heading][1]
        if 0 <= row < _FIELD_ROWS and 0 <= column < CELLS:
            found.append((probability, replace(moved, row=row, column=column, heading=heading)))
    return _possible(found) if len(found) == 2 else [(1.0, found[0][1])]  # the two directions are opposite, so a wall blocks at most one


def _turn_decode(walker: list[tuple[int, int]], player: int) -> State:
    (before_row, before_column), (row, column) = walker
    step = (row - before_row, column - before_column)
    if step not in _HEADINGS:
        raise ValueError(f"the walker went {step} cells in one step")
    return State(row, column, _HEADINGS.index(step), player)


def _opponent_start(rng: np.random.Generator) -> State:
    return State(1, int(rng.integers(CELLS)), 0, int(rng.integers(CELLS)))


def _opponent_outcomes(state: State, action: int, left: float) -> Outcomes:
    moved = _moved(state, action)
    ways = ((left, -1), (1.0 - left, 1))
    return _possible([(probability, replace(moved, column=(state.column + step) % CELLS)) for probability, step in ways])


def _opponent_decode(walker: list[tuple[int, int]], player: int) -> State:
    return State(*walker[-1], 0, player)


def _seek_outcomes(state: State, action: int, moves: float) -> Outcomes:
    moved = _moved(state, action)
    return _possible([(moves, replace(moved, column=(state.column + 1) % CELLS)), (1.0 - moves, moved)])


def _signal_start(rng: np.random.Generator) -> State:
    return replace(_opponent_start(rng), light=int(rng.integers(len(_LIGHTS))))


def _signal_outcomes(state: State, action: int, red: float) -> Outcomes:
    moved = replace(_moved(state, action), column=(state.column + 1 - state.light) % CELLS)
    return _possible([(red, replace(moved, light=1)), (1.0 - red, replace(moved, light=0))])


def _met(before: State, after: State) -> float:
    return float(after.player == after.column)


def _approached(before: State, after: State) -> float:
    """Columns by which the player came nearer to where the walker was."""
    return float(abs(before.player - before.column) - abs(after.player - before.column))


def _obeyed(before: State, after: State) -> float:
    """Columns by which the player came nearer to where the walker was, with the opposite sign if the light was red before the step."""
    return _approached(before, after) * (-1.0 if before.light else 1.0)


def _possible(outcomes: Outcomes) -> Outcomes:
    return [(probability, state) for probability, state in outcomes if probability > 0]


_WITH_LIGHT = {"walker": (_WALKER,), "player": (_PLAYER,), "light": _LIGHTS}
_ONE_ROW: tuple[Iterable[int], ...] = ([1], range(CELLS), [0], range(CELLS))
WORLDS: dict[str, World] = {
    "synthetic/turn": World(
        2, (range(_FIELD_ROWS), range(CELLS), range(len(_HEADINGS)), range(CELLS)), _turn_start, _turn_outcomes, _turn_decode, _met
    ),
    "synthetic/opponent": World(1, _ONE_ROW, _opponent_start, _opponent_outcomes, _opponent_decode, _met),
    "synthetic/seek": World(1, _ONE_ROW, _opponent_start, _seek_outcomes, _opponent_decode, _approached),
    "synthetic/signal": World(1, (*_ONE_ROW, (0, 1)), _signal_start, _signal_outcomes, _opponent_decode, _obeyed, _WITH_LIGHT),
}
"""turn: in each step the walker turns and moves one cell, to the left with probability env.minority_share, else to the right. If a wall
blocks one direction, it takes the other. opponent: in its row the walker moves one cell left with that probability, else right, and
re-enters on the other side (paper, figure 4). seek: the walker moves one cell right with that probability, else it stays. signal: the
walker moves one cell right, or stays if the light is red. With that probability the light is then red, else blue."""


def _check(game: str, config: EnvConfig) -> None:
    if config.frame_size % CELLS:
        raise UserError(f"env.frame_size={config.frame_size}: {game} is a board of {CELLS} x {CELLS} cells; use a multiple of {CELLS}")


def render(game: str, state: State, frame_size: int) -> Frame:
    """The frame of a state, (frame_size, frame_size, 3), black except for the walker, the player and the light, if there is one."""
    cells = np.zeros((CELLS, CELLS, 3), np.uint8)
    if "light" in world_of(game).objects:
        cells[_LIGHT_CELL] = _LIGHTS[state.light]
    cells[state.row, state.column] = _WALKER
    cells[CELLS - 1, state.player] = _PLAYER
    side = frame_size // CELLS
    return cells.repeat(side, axis=0).repeat(side, axis=1)


def decode(game: str, past: npt.NDArray[np.uint8]) -> State:
    """The exact state after the frames `past`, (L, 3, h, w) uint8, oldest first. Raises ValueError if they are not from this world."""
    world = world_of(game)
    if past.dtype != np.uint8 or past.ndim != 4 or past.shape[1] != 3 or past.shape[2] != past.shape[3] or past.shape[2] % CELLS:
        raise ValueError(f"{game}: expected uint8 frames (L, 3, h, h), h a multiple of {CELLS}, got {past.dtype} {past.shape}")
    if len(past) < world.past_frames:
        raise ValueError(f"{game}: its state follows from {world.past_frames} frames, got {len(past)}")
    walker: list[tuple[int, int]] = []
    player, light = 0, 0
    for frame in past[-world.past_frames :].transpose(0, 2, 3, 1):
        side = len(frame) // CELLS
        cells = frame[::side, ::side]
        places, players = (np.argwhere((cells == colour).all(axis=-1)) for colour in (_WALKER, _PLAYER))
        if len(places) != 1 or len(players) != 1:
            raise ValueError(f"{game}: a frame with {len(places)} walkers and {len(players)} players")
        place, player = (int(places[0][0]), int(places[0][1])), int(players[0][1])
        light = int("light" in world.objects and tuple(cells[_LIGHT_CELL]) == _LIGHTS[1])
        if not np.array_equal(frame, render(game, State(*place, 0, player, light), len(frame))):
            raise ValueError(f"{game}: a frame that no state has")
        walker.append(place)
    return replace(world.decode(walker, player), light=light)


def next_frames(
    game: str, past: npt.NDArray[np.uint8], action: int, minority_share: float
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """The true distribution of the next frame: modes (m, 3, h, w) uint8 and their probabilities (m,), the less likely first.

    Args:
        game: name of the world.
        past: true frames up to now, oldest first, (L, 3, h, w) uint8, with L at least the world's `past_frames`.
        action: taken after the last of them.
        minority_share: env.minority_share of the world that made the frames.
    """
    outcomes = world_of(game).outcomes(decode(game, past), int(action), minority_share)
    modes = np.stack([render(game, state, past.shape[-1]).transpose(2, 0, 1) for _, state in outcomes])
    return modes, np.array([probability for probability, _ in outcomes])


_ROUNDS = 2000


def without_objects(game: str, frames: npt.NDArray[np.uint8], missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """True frames (b, 3, h, w) without the objects that `missing`, (b, objects of the world), marks. Black takes their place."""
    found = frames.copy()
    for colours, gone in zip(world_of(game).objects.values(), missing.T, strict=True):
        for colour in colours:
            shown = (frames == np.array(colour, np.uint8)[:, None, None]).all(axis=1)
            found[np.broadcast_to((shown & gone[:, None, None])[:, None], frames.shape)] = 0
    return found


@functools.cache
def step_rewards(game: str, minority_share: float) -> tuple[float, float]:
    """Mean reward per step, from a uniformly drawn start: of uniformly random play, and of the best policy that knows the state.

    Both are limits for long episodes, from value iteration over all states (Puterman 1994, section 8.5). Half of each step stays in place,
    since the walker's heading is periodic. This leaves the mean reward of a step unchanged.
    """
    world = world_of(game)
    states = [State(*values) for values in itertools.product(*world.ranges)]
    place = {state: number for number, state in enumerate(states)}
    outcomes = [[world.outcomes(state, action, minority_share) for action in range(len(ACTIONS))] for state in states]
    padded = [[[*found, (0.0, found[0][1])][:2] for found in of_state] for of_state in outcomes]
    chance = np.array([[[p for p, _ in found] for found in of_state] for of_state in padded])  # (states, actions, 2)
    reached = np.array([[[place[state] for _, state in found] for found in of_state] for of_state in padded])
    reward = np.array(
        [[[world.reward(state, after) for _, after in found] for found in of] for state, of in zip(states, padded, strict=True)]
    )
    gains = []
    for policy in (np.mean, np.max):
        values = gain = np.zeros(len(states))
        for _ in range(_ROUNDS):
            ahead = policy((chance * (reward + values[reached])).sum(axis=-1), axis=-1)
            values, gain = 0.5 * (values + ahead), ahead - values
        gains.append(float(gain.mean()))
    return gains[0], gains[1]


def world_of(game: str) -> World:
    """The world with this name. Raises UserError with the nearest names for another game."""
    if game not in WORLDS:
        raise UserError(f"game={game!r}: not a synthetic world: {nearest(game, WORLDS)}")
    return WORLDS[game]


class SyntheticEnv(gymnasium.Env[Frame, int]):
    """A playable world. Observations (frame_size, frame_size, 3) uint8. The actions NOOP, RIGHT and LEFT move the player one cell.

    The reward is 1 if the player stands in the walker's column after the step, else 0. In `seek` it is the number of columns by which the
    player came nearer to the column in which the walker stood: -1, 0 or 1. In `signal` the same number counts, with the opposite sign
    if the light was red before the step. An episode never ends. It is truncated after EPISODE_STEPS steps. There are no lives, no-ops,
    skipped frames or sticky actions. A seed determines the start and all later draws.

    info has the keys of `AtariEnv`: `lives` 0, `life_loss` False, `ram` ((128,) uint8: row, column, heading, player, light, then zeros),
    `frame_number` (steps since the start).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012  (gymnasium's own contract)
    render_mode = "rgb_array"

    def __init__(self, game: str, config: EnvConfig) -> None:
        """Raises UserError for an unknown name, or a frame size that does not fit."""
        self._game, self._world = game, world_of(game)
        _check(game, config)
        self._config = config
        self._state, self._steps = State(0, 0, 0, 0), 0
        self.action_space = spaces.Discrete(len(ACTIONS))  # type: ignore[assignment]
        self.observation_space = spaces.Box(0, 255, (config.frame_size, config.frame_size, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Starts an episode. Without a seed the draws continue."""
        super().reset(seed=seed)
        self._state, self._steps = self._world.start(self.np_random), 0
        return self.render(), self._info()

    def step(self, action: int) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """One step of the world. The class describes the outputs."""
        outcomes = self._world.outcomes(self._state, int(action), self._config.minority_share)
        drawn = int(self.np_random.choice(len(outcomes), p=[probability for probability, _ in outcomes]))
        before, self._state = self._state, outcomes[drawn][1]
        self._steps += 1
        reward = self._world.reward(before, self._state)
        return self.render(), reward, False, self._steps >= EPISODE_STEPS, self._info()

    def render(self) -> Frame:
        """The present frame."""
        return render(self._game, self._state, self._config.frame_size)

    def save_state(self) -> dict[str, Any]:
        """Plain data for `load_state`."""
        return {"state": list(astuple(self._state)), "steps": self._steps, "random": json.dumps(self.np_random.bit_generator.state)}

    def load_state(self, saved: dict[str, Any]) -> None:
        """Continues exactly from `save_state`."""
        self._state, self._steps = State(*saved["state"]), saved["steps"]
        self.np_random.bit_generator.state = json.loads(saved["random"])

    def _ram(self) -> npt.NDArray[np.uint8]:
        ram = np.zeros(_RAM, np.uint8)
        ram[:_FIELDS] = astuple(self._state)
        return ram

    def _info(self) -> dict[str, Any]:
        return {"lives": 0, "life_loss": False, "ram": self._ram(), "frame_number": self._steps}


class Follower:
    """Goes to the most likely next column of the walker. With a light: to the walker's present column, or away from it at red."""

    def __init__(self, game: str) -> None:
        self._world = world_of(game)

    def __call__(self, ram: Ram, last_action: int) -> int:
        """NOOP 0, RIGHT 1, LEFT 2."""
        state = State(*map(int, ram[:_FIELDS]))
        _, likeliest = self._world.outcomes(state, 0, EnvConfig().minority_share)[-1]
        if "light" not in self._world.objects:
            return (0, 1, 2)[int(np.sign(likeliest.column - state.player))]
        if state.light:
            return 1 if state.player > state.column or state.player == state.column == 0 else 2
        return (0, 1, 2)[int(np.sign(state.column - state.player))]


def _follower(game: str) -> Callable[[np.random.Generator], Policy]:
    return lambda rng: Follower(game)


def _conditions(game: str, config: EnvConfig) -> Mapping[str, Any]:
    return {
        "environment": f"{game}, minority share {config.minority_share:g}",
        "sticky_actions": 0.0,
        "no_ops": "none",
        "life_rule": f"no lives; an episode is cut after {EPISODE_STEPS} steps",
        "frame_skip": 1,
        "pooling": "none",
        "resize": f"drawn at {config.frame_size}x{config.frame_size} RGB",
        "action_set": f"all {len(ACTIONS)}",
    }


def _next_frames(
    game: str, past: npt.NDArray[np.uint8], action: int, facts: Mapping[str, Any]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    return next_frames(game, past, action, facts["minority_share"])


def _truth(game: str) -> Truth:
    return Truth(
        next_frames=functools.partial(_next_frames, game),
        past_frames=world_of(game).past_frames,
        erasable=tuple(world_of(game).objects),
        erased=functools.partial(without_objects, game),
        rewards=lambda facts: step_rewards(game, facts["minority_share"]),
    )


FAMILY = EnvFamily(
    about="small pixel worlds whose randomness is known ([synthetic.md](synthetic.md))",
    names=lambda: tuple(WORLDS),
    frames=lambda game, config: FrameSpec.square(config.frame_size),
    actions=lambda game: ActionSpec.discrete(len(ACTIONS), ACTIONS),
    make=SyntheticEnv,
    conditions=_conditions,
    reads=frozenset({"frame_size", "minority_share"}),
    saves=True,
    max_steps=EPISODE_STEPS,
    fixed_length=True,
    check=_check,
    facts=lambda config: {"minority_share": config.minority_share},
    random=lambda env: bool(env.get("minority_share", EnvConfig().minority_share)),
    experts={game: _follower(game) for game in WORLDS},
    truth=_truth,
)
