"""Keys to actions. A key is a `KeyboardEvent.code` of the browser, so a key is a place on the keyboard and not a letter."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec

_BUTTONS = {
    "UP": ("KeyW", "ArrowUp"),
    "DOWN": ("KeyS", "ArrowDown"),
    "LEFT": ("KeyA", "ArrowLeft"),
    "RIGHT": ("KeyD", "ArrowRight"),
    "FIRE": ("Space",),
}
"""Buttons of a joystick, of which ale-py's action names are composed, and their keys. The letters are those of the authors."""
_COMPOSED = re.compile("(UP|DOWN)?(LEFT|RIGHT)?(FIRE)?")
_OTHERS = (*(f"Digit{digit}" for digit in "123456789"), *(f"Key{letter}" for letter in "QRTYUIOPFGHJKLZXCVB"))
"""Keys of everything that is no button of a joystick, in the order in which they are given out. E, M and N are left for the page: with the
authors, E is a single step and M changes the player."""
_MOUSE = ("mouse_x", "mouse_y")
"""Columns of a Box that follow the mouse."""


@dataclass(frozen=True)
class KeyMap:
    """The keys of one action space. Build it with `key_map`."""

    spec: ActionSpec
    buttons: dict[str, str]
    """key -> the button that it presses."""
    chords: tuple[frozenset[str], ...]
    """Discrete: the buttons of each action. Empty for other kinds."""
    columns: dict[str, tuple[int, float]]
    """Other kinds: button -> (column, the value that it gives the column)."""

    def action(self, held: Sequence[str], motion: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.int64] | NDArray[np.float32]:
        """The action of the keys that are held, of shape () or (k,).

        Discrete: the action with the most of the held buttons and no other button. If several have as many, the later key wins. In other
        kinds each column follows the latest of its keys.

        Args:
            held: keys in the order in which they were pressed. Keys without a meaning are ignored.
            motion: the sum of the mouse's motion since the last action, in the unit of the columns mouse_x and mouse_y.
        """
        pressed = list(dict.fromkeys(self.buttons[key] for key in reversed(held) if key in self.buttons))  # the latest first
        if self.spec.kind == "Discrete":
            rank = {button: -place for place, button in enumerate(pressed)}
            fitting = [number for number, chord in enumerate(self.chords) if chord <= rank.keys()]
            best = max(fitting, default=0, key=lambda number: self._strength(number, rank))
            return np.array(best, np.int64)
        values = self._neutral(motion)
        for button in reversed(pressed):
            column, value = self.columns[button]
            values[column] = value
        low, high = self.spec.bounds
        return np.clip(values, low, high).astype(self.spec.dtype)

    def _strength(self, number: int, rank: dict[str, int]) -> tuple[int, list[int], int]:
        chord = self.chords[number]
        return len(chord), sorted((rank[button] for button in chord), reverse=True), -number

    def _neutral(self, motion: tuple[float, float]) -> NDArray[np.float64]:
        values = np.zeros(len(self.spec.sizes))
        for name, moved in zip(_MOUSE, motion, strict=True):
            if self.spec.low and name in self.spec.names:
                values[self.spec.names.index(name)] = moved
        return values

    def table(self) -> list[tuple[str, tuple[str, ...]]]:
        """(name of the action or of the column's value, keys of its buttons joined with +), for a sheet of help."""
        keys: dict[str, list[str]] = {}
        for key, button in self.buttons.items():
            keys.setdefault(button, []).append(key)
        if self.spec.kind != "Discrete":
            names = self.spec.names or tuple(f"column {number}" for number in range(len(self.spec.sizes)))
            return [(f"{names[column]} = {value:g}", tuple(keys[button])) for button, (column, value) in self.columns.items()]
        rows = []
        for number, chord in enumerate(self.chords):
            ordered = [button for button in keys if button in chord]
            ways = range(min((len(keys[button]) for button in ordered), default=0))
            rows.append((action_name(self.spec, number), tuple("+".join(keys[button][way] for button in ordered) for way in ways)))
        return rows


def key_map(spec: ActionSpec) -> KeyMap:
    """The keys of an action space. Raises UserError for a space with more choices than keys.

    Actions that ale-py's names compose of UP, DOWN, LEFT, RIGHT and FIRE have W, A, S, D, the arrows and the space bar. NOOP, or the first
    action, is what no key gives. All others have the digits, then letters. A column of a MultiDiscrete space has one key for each value
    from 1, a column of a Box one key for its least and one for its greatest value.
    """
    others = iter(_OTHERS)

    def key() -> str:
        found = next(others, None)
        if found is None:
            raise UserError(f"{spec}: the keyboard has {len(_OTHERS)} keys for actions without a name of a joystick, and more are needed")
        return found

    if spec.kind == "Discrete":
        chords = tuple(_chord(spec, number) for number in range(spec.sizes[0]))
        used = dict.fromkeys(button for chord in chords for button in sorted(chord))
        known = {key: button for button, keys in _BUTTONS.items() if button in used for key in keys}
        return KeyMap(spec, known | {key(): button for button in used if button not in _BUTTONS}, chords, {})
    columns: dict[str, tuple[int, float]] = {}
    for column, size in enumerate(spec.sizes):
        values = (spec.low[column], spec.high[column]) if spec.low else tuple(float(value) for value in range(1, size))
        columns |= {f"{column}={value:g}": (column, value) for value in values}
    return KeyMap(spec, {key(): button for button in columns}, (), columns)


def action_name(spec: ActionSpec, number: int) -> str:
    """The name of a Discrete action, or its number where there are no names."""
    return spec.names[number] if spec.names else str(number)


def _chord(spec: ActionSpec, number: int) -> frozenset[str]:
    name = action_name(spec, number)
    if name == "NOOP" or (number == 0 and "NOOP" not in spec.names):
        return frozenset()
    composed = _COMPOSED.fullmatch(name)
    return frozenset(part for part in composed.groups() if part) if composed else frozenset((name,))
