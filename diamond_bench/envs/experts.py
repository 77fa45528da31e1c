"""Scripted experts for Atari games, which read the console's memory. Without torch.

The RAM addresses were found by observation. They agree with those of Anand et al. 2019 (AtariARI).
"""

import itertools
import math
from collections.abc import Callable

from diamond_bench.envs.policies import Policy, Ram


class Breakout:
    """Moves the paddle's centre to where the ball will come down."""

    _LEFT, _RIGHT, _BOTTOM = 57, 199, 178  # walls, and the height at which the paddle meets the ball
    _BRICKS_END = 100  # below this height no brick deflects the ball
    _MOVE = 12  # pixels that the paddle moves in the step of a move, and again in the next step
    _CENTRE = 7  # of the paddle, from its RAM position

    def __init__(self) -> None:
        self._ball: tuple[int, int] | None = None

    def __call__(self, ram: Ram, last_action: int) -> int:
        """NOOP 0, FIRE 1 (while no ball is in play), RIGHT 2, LEFT 3."""
        x, y, paddle = int(ram[99]), int(ram[101]), int(ram[72])
        ball, self._ball = self._ball, (x, y)
        if y == 0:
            self._ball = None
            return 1
        target: float = x
        if ball is not None and y > ball[1] and self._BRICKS_END < y < self._BOTTOM:
            steps = (self._BOTTOM - y) / (y - ball[1])
            target = _between_walls(x + (x - ball[0]) * steps, self._LEFT, self._RIGHT)
        still_to_go = (0, 0, self._MOVE, -self._MOVE)[last_action]
        return (0, 2, 3)[_direction(target - self._CENTRE - paddle - still_to_go, self._MOVE / 2)]


class Pong:
    """Meets the ball with the paddle's upper end, which returns it too steeply for the opponent. Waits in the middle otherwise."""

    _TOP, _BOTTOM, _PADDLE_X = 44, 204, 188
    _MIDDLE = 117  # the paddle's waiting position
    _LAG = (9.0, 10.3, 2.7)  # pixels that the paddle moves in the step of a move and in the two following steps
    _DIRECTIONS = (0, 0, -1, 1, -1, 1)  # of NOOP, FIRE, RIGHT (up), LEFT (down), RIGHTFIRE, LEFTFIRE
    _PLANS = tuple(itertools.product((0, 1, -1), repeat=3))

    def __init__(self) -> None:
        self._ball: tuple[int, int] | None = None
        self._last = 0

    def __call__(self, ram: Ram, last_action: int) -> int:
        """FIRE 1 (serves), NOOP 0, RIGHT 2 (up), LEFT 3 (down)."""
        x, y, paddle = int(ram[49]), int(ram[54]), int(ram[51])
        ball, self._ball = self._ball, (x, y)
        before, self._last = self._last, self._DIRECTIONS[last_action]
        if x == 0 or y == 0:
            self._ball = None
            return 1
        target, steps = float(self._MIDDLE), math.inf
        if ball is not None and x > ball[0]:
            steps = (self._PADDLE_X - x) / (x - ball[0])
            target = _between_walls(y + (y - ball[1]) * steps, self._TOP, self._BOTTOM)
        if 0 < steps <= 3:  # all sequences of moves until the ball arrives
            plan = min(self._PLANS, key=lambda plan: abs(self._arrival(paddle, before, plan, steps) - target))
            return (0, 3, 2)[plan[0]]
        still_to_go = (self._LAG[1] + self._LAG[2]) * self._last + self._LAG[2] * before
        return (0, 3, 2)[_direction(target - paddle - still_to_go, 6.0)]

    def _arrival(self, paddle: float, before: int, plan: tuple[int, ...], steps: float) -> float:
        """Position of the paddle in `steps` steps (at most 3) if it moves by `plan`."""
        moves = (before, self._last, *plan)
        for i in range(math.ceil(steps)):
            change = self._LAG[0] * moves[i + 2] + self._LAG[1] * moves[i + 1] + self._LAG[2] * moves[i]
            paddle += min(1.0, steps - i) * change
        return paddle


class Freeway:
    """Always walks up. Cars only push it back."""

    def __call__(self, ram: Ram, last_action: int) -> int:
        """NOOP 0, UP 1, DOWN 2."""
        return 1


class Boxing:
    """Stays at arm's length, a little above or below the opponent, and punches every other step."""

    _NEAR, _FAR = 16, 24  # horizontal distance at which a punch lands
    _OFFSET, _TOLERANCE = 9, 2  # vertical: the arms are at the sides of the body
    _ACTIONS = {  # noqa: RUF012  (horizontal, vertical) -> (move, move and punch) of the full action set
        (0, 0): (0, 1),
        (0, -1): (2, 10),
        (1, 0): (3, 11),
        (-1, 0): (4, 12),
        (0, 1): (5, 13),
        (1, -1): (6, 14),
        (-1, -1): (7, 15),
        (1, 1): (8, 16),
        (-1, 1): (9, 17),
    }

    def __init__(self) -> None:
        self._punch = False

    def __call__(self, ram: Ram, last_action: int) -> int:
        """One of the 18 actions."""
        right, down = int(ram[33]) - int(ram[32]), int(ram[35]) - int(ram[34])
        side = 1 if right >= 0 else -1
        off_line = down - (self._OFFSET if down >= 0 else -self._OFFSET)
        horizontal = 0 if self._NEAR <= abs(right) <= self._FAR else side if abs(right) > self._FAR else -side
        vertical = 0 if abs(off_line) <= self._TOLERANCE else 1 if off_line > 0 else -1
        self._punch = not self._punch
        return self._ACTIONS[horizontal, vertical][self._punch]


def _between_walls(position: float, low: float, high: float) -> float:
    """The position of an object that would fly straight to `position`, if it bounces between two walls."""
    width = high - low
    folded = (position - low) % (2 * width)
    return low + (folded if folded <= width else 2 * width - folded)


def _direction(error: float, tolerance: float) -> int:
    """The direction, -1, 0 or 1, that reduces a distance. 0 within the tolerance."""
    return 0 if abs(error) <= tolerance else 1 if error > 0 else -1


EXPERTS: dict[str, Callable[[], Policy]] = {
    "Breakout": Breakout,
    "Pong": Pong,
    "Freeway": Freeway,
    "Boxing": Boxing,
}
"""Scripted experts by game."""
