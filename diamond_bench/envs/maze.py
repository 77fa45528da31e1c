"""Mazes: a window of 8 x 8 cells moves over a larger world, whose content is random in each episode. Without torch.

The layout of a world is fixed: where the window may go, where walls and lanes are, when objects pass. The rest is drawn when it comes
into view for the first time, and then stays as it is. So nothing that was never seen can be predicted, and everything that was seen can.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from diamond_bench.config import EnvConfig
from diamond_bench.envs.family import EnvFamily, Truth
from diamond_bench.envs.lives import Frame
from diamond_bench.envs.policies import Policy, Ram
from diamond_bench.envs.sights import NOTHING, Sights
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec, FrameSpec

CELLS = 8
"""Cells per side of the window. The frame size is a multiple of it."""
EPISODE_STEPS = 1023
"""Steps after which an episode is truncated (a time limit, not an end). It contains one of the paper's references of 8 + 1000 frames."""
ACTIONS = ("NOOP", "UP", "RIGHT", "DOWN", "LEFT")
_MOVES = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))
"""(rows, columns) of each action."""
_BLOCK = 4
"""Cells between two crossings of the loops."""
_LONG, _SHORT = 264, 136
"""Columns of the worlds."""
_SPACING = 5
"""Cells between two objects of a lane."""
_PERIOD = 4
"""Colours of a counter."""

KINDS = ("floor", "object", "counter")
FLOOR, OBJECT, COUNTER = range(3)
_LOW, _HIGH = 32, 224
_PALETTES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((_LOW, _LOW, _HIGH), (_HIGH, _HIGH, _LOW)),
    ((_HIGH, _LOW, _LOW), (_LOW, _HIGH, _HIGH)),
    ((_LOW, _LOW, _LOW), (_HIGH, _HIGH, _LOW), (_LOW, _HIGH, _HIGH), (_HIGH, _LOW, _HIGH)),
)
"""The colours of each kind, equally likely. All are equally far from the mean of their palette, which is grey."""
_WALL, _LANE = (96, 96, 96), (0, 0, 0)
_UNDRAWN = 255
_RAM = 128


@dataclass(frozen=True)
class Layout:
    """The fixed part of a world."""

    about: str
    rows: int
    columns: int
    crossings: bool = False
    """Whether the window moves along two streets and the ways between them. Otherwise it moves in one row."""
    lanes: Mapping[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """Rows in which objects move one cell to the right in each step, and the columns (columns,) where a wall hides them."""
    counters: bool = False
    """Whether there are counters, whose colour changes in each step, seen or not."""

    def walkable(self, row: int, column: int) -> bool:
        """Whether the window's upper left cell may be there."""
        inside = 0 <= row <= self.rows - CELLS and 0 <= column <= self.columns - CELLS
        return inside and (not self.crossings or row % _BLOCK == 0 or column % _BLOCK == 0)

    @property
    def _objects(self) -> int:
        """Objects of one lane in an episode."""
        return (self.columns + EPISODE_STEPS) // _SPACING + 1

    @property
    def num_things(self) -> int:
        """Number of things of an episode: floor cells, then objects, then counters."""
        return self.rows * self.columns + len(self.lanes) * self._objects + self.columns

    def view(self, row: Any, column: Any, step: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The things in the window and their kinds, as in `Sights`, each (..., CELLS, CELLS).

        `row` and `column` of the window's upper left cell, and `step` of the episode, are numbers or arrays (...).
        """
        at = np.arange(CELLS)
        rows, columns = np.asarray(row)[..., None, None] + at[:, None], np.asarray(column)[..., None, None] + at
        rows, columns, steps = np.broadcast_arrays(rows, columns, np.asarray(step)[..., None, None])
        things, kinds = (rows * self.columns + columns).astype(np.int64), np.full(rows.shape, FLOOR, np.int64)
        for number, (lane, hidden) in enumerate(self.lanes.items()):
            ahead = columns - steps + EPISODE_STEPS
            objects = self.rows * self.columns + number * self._objects + ahead // _SPACING
            in_lane, there = rows == lane, (ahead % _SPACING == 0) & ~hidden[columns]
            things = np.where(in_lane, np.where(there, objects, NOTHING), things)
            kinds = np.where(in_lane, OBJECT, kinds)
        if self.counters:
            counted = (rows % 4 >= 2) & (columns % 12 >= 10)
            first = self.num_things - self.columns
            things = np.where(counted, first + columns // 12 + rows // 4 * (self.columns // 12), things)
            kinds = np.where(counted, COUNTER, kinds)
        return things, kinds

    def colours(self, drawn: npt.NDArray[np.uint8], row: int, column: int, step: int) -> Frame:
        """The colours of the window's cells, (CELLS, CELLS, 3). `drawn`: the number that was drawn for each thing, (num_things,)."""
        things, kinds = self.view(row, column, step)
        numbers = drawn[things] + np.where(kinds == COUNTER, step, 0)
        cells = np.zeros((CELLS, CELLS, 3), np.uint8)
        for kind, palette in enumerate(_PALETTES):
            chosen = np.array(palette, np.uint8)[numbers % len(palette)]
            cells = np.where((kinds == kind)[..., None], chosen, cells)
        for lane, hidden in self.lanes.items():
            if row <= lane < row + CELLS:
                walls = np.where(hidden[column : column + CELLS, None], _WALL, _LANE)
                empty = things[lane - row] == NOTHING
                cells[lane - row, empty] = walls[empty]
        return cells


def _walls(columns: int, shift: int) -> npt.NDArray[np.bool_]:
    """Walls of 1, 3 and 6 cells, with 4 open cells before each, over and over."""
    pattern = [width > 0 and cell >= 4 for width in (1, 3, 6) for cell in range(4 + width)]
    return np.array([pattern[(column + shift) % len(pattern)] for column in range(columns)])


LAYOUTS: dict[str, Layout] = {
    "maze/corridor": Layout("a corridor: the way back mirrors the way out", CELLS, _LONG),
    "maze/loop": Layout("two streets with ways between them: a loop leads back to each place", CELLS + _BLOCK, _SHORT, crossings=True),
    "maze/wall": Layout(
        "a corridor with two lanes, in which objects pass behind walls", CELLS, _LONG, lanes={2: _walls(_LONG, 0), 5: _walls(_LONG, 11)}
    ),
    "maze/counter": Layout("a corridor with counters, which go on while they are out of view", CELLS, _LONG, counters=True),
}
"""The layouts by game."""


def _pack(row: int, column: int, step: int) -> Ram:
    ram = np.zeros(_RAM, np.uint8)
    ram[:6] = np.array((row, column, step), "<u2").view(np.uint8)
    return ram


def _unpack(ram: Ram) -> npt.NDArray[np.int64]:
    """(..., 3): row and column of the window, and the step, from memories (..., 128)."""
    return np.ascontiguousarray(ram[..., :6]).view("<u2").astype(np.int64)


def sights(game: str, ram: npt.NDArray[np.uint8]) -> Sights:
    """What the frames of these memories (N, 128) show."""
    place = _unpack(ram)
    things, kinds = LAYOUTS[game].view(place[:, 0], place[:, 1], place[:, 2])
    return Sights(things, kinds, KINDS, np.array([np.mean(palette, axis=0) / 255 for palette in _PALETTES]))


class MazeEnv(gymnasium.Env[Frame, int]):
    """A playable maze. Observations (frame_size, frame_size, 3) uint8. An action moves the window one cell, or not at all where the layout
    does not allow it.

    There are no rewards and no ends. An episode is truncated after EPISODE_STEPS steps. The layout and the actions determine what is where.
    Its appearance is drawn from `np_random` when it is first visible.

    info has the keys of `AtariEnv`: `lives` 0, `life_loss` False, `ram` ((128,) uint8: row, column and step as uint16, then zeros),
    `frame_number` (steps since the start).
    """

    def __init__(self, game: str, config: EnvConfig) -> None:
        """Raises UserError for a frame size that does not fit."""
        _check(game, config)
        self._layout, self._scale = LAYOUTS[game], config.frame_size // CELLS
        self.observation_space = spaces.Box(0, 255, (config.frame_size, config.frame_size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))  # type: ignore[assignment]
        self._row = self._column = self._steps = 0
        self._drawn = np.full(self._layout.num_things, _UNDRAWN, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Starts an episode in a new world, at its left end."""
        super().reset(seed=seed)
        self._row = self._column = self._steps = 0
        self._drawn = np.full(self._layout.num_things, _UNDRAWN, np.uint8)
        return self._look(), self._info()

    def step(self, action: int) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """One move of the window."""
        down, right = _MOVES[int(action)]
        if self._layout.walkable(self._row + down, self._column + right):
            self._row, self._column = self._row + down, self._column + right
        self._steps += 1
        return self._look(), 0.0, False, self._steps >= EPISODE_STEPS, self._info()

    def save_state(self) -> dict[str, Any]:
        """Plain data for `load_state`."""
        import torch  # not for planning

        drawn, random = torch.from_numpy(self._drawn.copy()), json.dumps(self.np_random.bit_generator.state)
        return {"row": self._row, "column": self._column, "steps": self._steps, "drawn": drawn, "random": random}

    def load_state(self, saved: dict[str, Any]) -> None:
        """Continues exactly from `save_state`."""
        self._row, self._column, self._steps = saved["row"], saved["column"], saved["steps"]
        self._drawn = saved["drawn"].numpy().copy()
        self.np_random.bit_generator.state = json.loads(saved["random"])

    def _look(self) -> Frame:
        """The present frame. What it shows for the first time is drawn now."""
        place = (self._row, self._column, self._steps)
        things = np.unique(self._layout.view(*place)[0])
        new = things[(things != NOTHING) & (self._drawn[things] == _UNDRAWN)]
        self._drawn[new] = self.np_random.integers(_PERIOD, size=len(new))  # of a counter, its colour at step 0
        cells = self._layout.colours(self._drawn, *place)
        return cells.repeat(self._scale, axis=0).repeat(self._scale, axis=1)

    def _info(self) -> dict[str, Any]:
        ram = _pack(self._row, self._column, self._steps)
        return {"lives": 0, "life_loss": False, "ram": ram, "frame_number": self._steps}


class Returner:
    """A policy that explores to the right, and again and again goes back, waits and returns, so that gaps of many lengths occur.

    In a corridor it goes 1 to 4 cells back. Where there are loops it goes back to the last crossing, or round the next block.
    """

    WAITS = (0, 0, 0, 2, 4, 8, 16, 32)
    """Steps of a wait, equally likely."""

    def __init__(self, game: str, rng: np.random.Generator) -> None:
        self._layout, self._rng = LAYOUTS[game], rng
        self._route: list[tuple[int, int, int]] = []
        """(row, column, steps to wait there) of the next places."""

    def __call__(self, ram: Ram, last_action: int) -> int:
        """The index of an action in ACTIONS."""
        row, column, _ = map(int, _unpack(ram))
        while True:
            if not self._route:
                self._route = self._trip(row, column)
            to_row, to_column, wait = self._route[0]
            if (row, column) != (to_row, to_column):
                return self._towards(row, column, to_row, to_column)
            if wait > 0:
                self._route[0] = (to_row, to_column, wait - 1)
                return 0
            self._route.pop(0)

    def _towards(self, row: int, column: int, to_row: int, to_column: int) -> int:
        down, right = int(np.sign(to_row - row)), int(np.sign(to_column - column))
        if down and self._layout.walkable(row + down, column):
            return _MOVES.index((down, 0))
        return _MOVES.index((0, right))

    def _trip(self, row: int, column: int) -> list[tuple[int, int, int]]:
        """The places of one way back, of the return, and of the next step forward. The world's right end is the end of all ways."""
        distance, ahead, wait = int(self._rng.integers(1, 5)), int(self._rng.integers(1, 3)), int(self._rng.choice(self.WAITS))
        round_block = bool(self._rng.random() < 0.5)
        most = self._layout.columns - CELLS
        if not self._layout.crossings:
            return [(row, max(column - distance, 0), wait), (row, column, 0), (row, min(column + ahead, most), 0)]
        row, here = row // _BLOCK * _BLOCK, column // _BLOCK * _BLOCK
        other, before, after = _BLOCK - row, max(here - _BLOCK, 0), min(here + _BLOCK, most)
        if round_block:
            return [(row, after, 0), (other, after, 0), (other, here, wait), (row, here, 0), (row, after, 0)]
        return [(row, here, 0), (row, before, wait), (row, after, 0)]


def _returner(game: str) -> Callable[[np.random.Generator], Policy]:
    return lambda rng: Returner(game, rng)


def _check(game: str, config: EnvConfig) -> None:
    if config.frame_size % CELLS:
        raise UserError(f"env.frame_size={config.frame_size}: {game} shows {CELLS} x {CELLS} cells; use a multiple of {CELLS}")


def _conditions(game: str, config: EnvConfig) -> Mapping[str, Any]:
    return {
        "environment": f"{game}: {LAYOUTS[game].about}",
        "sticky_actions": 0.0,
        "no_ops": "none",
        "life_rule": f"no lives; an episode is cut after {EPISODE_STEPS} steps",
        "frame_skip": 1,
        "pooling": "none",
        "resize": f"drawn at {config.frame_size}x{config.frame_size} RGB",
        "action_set": f"all {len(ACTIONS)}",
    }


def _truth(game: str) -> Truth:
    return Truth(sights=lambda ram: sights(game, ram))


FAMILY = EnvFamily(
    about="a window over a larger random world that can be remembered ([memory.md](memory.md))",
    names=lambda: tuple(LAYOUTS),
    frames=lambda game, config: FrameSpec.square(config.frame_size),
    actions=lambda game: ActionSpec.discrete(len(ACTIONS), ACTIONS),
    make=MazeEnv,
    conditions=_conditions,
    reads=frozenset({"frame_size"}),
    rewards=False,
    ends=False,
    max_steps=EPISODE_STEPS,
    fixed_length=True,
    saves=True,
    check=_check,
    random=lambda env: True,
    experts={game: _returner(game) for game in LAYOUTS},
    truth=_truth,
)
