"""Keys to actions. A key is a `KeyboardEvent.code` of the browser, so a key is a place on the keyboard and not a letter."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diamond_bench.envs.first_person import MOUSE, bins_of, nearest_bin
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
_FIRST_PERSON = {
    "forward": ("KeyW",),
    "left": ("KeyA",),
    "back": ("KeyS",),
    "right": ("KeyD",),
    "jump": ("Space",),
    "crouch": ("KeyC",),
    "run": ("ShiftLeft",),
    "weapon_1": ("Digit1",),
    "weapon_2": ("Digit2",),
    "weapon_3": ("Digit3",),
    "use": ("KeyR",),
    "fire": ("Mouse0", "KeyF"),
    "alt_fire": ("Mouse2", "KeyG"),
}
"""Columns of first-person games with the values 0 and 1, and their keys. `Mouse0` and `Mouse2` are the left and the right mouse button."""
_TURNS = {"mouse_x": {"ArrowLeft": -60, "ArrowRight": 60}, "mouse_y": {"ArrowUp": -50, "ArrowDown": 50}}
"""Keys that turn the view where motion has bins, and their counts per step: those of the authors' CS:GO game."""
_OPPOSITES = (frozenset(("forward", "back")), frozenset(("left", "right")), frozenset(("weapon_1", "weapon_2", "weapon_3")))
"""Columns of which an action sets only one: the authors' CS:GO game never sends two."""
_COUNTS_PER_PIXEL = 2.0
"""Counts of a bin per pixel of the mouse's motion."""
_DRIVEN = {"acceleration": ("DOWN", "UP"), "steering": ("LEFT", "RIGHT")}
"""Columns of a Box that are driven like a joystick, and the buttons of their least and their greatest value."""


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
        kinds each column follows the latest of its keys, and of opposite columns (`_OPPOSITES`) only the one with the latest key is set.

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
        for button in reversed(_without_opposites(pressed)):
            column, value = self.columns[button]
            values[column] = value
        low, high = self.spec.bounds
        return np.clip(values, low, high).astype(self.spec.dtype)

    def _strength(self, number: int, rank: dict[str, int]) -> tuple[int, list[int], int]:
        chord = self.chords[number]
        return len(chord), sorted((rank[button] for button in chord), reverse=True), -number

    def _neutral(self, motion: tuple[float, float]) -> NDArray[np.float64]:
        values = np.zeros(len(self.spec.sizes))
        for name, moved in zip(MOUSE, motion, strict=True):
            if self.spec.low and name in self.spec.names:
                values[self.spec.names.index(name)] = moved
        for column, bins in self._bins.items():
            moved = motion[MOUSE.index(self.spec.names[column])]
            values[column] = nearest_bin(bins, _COUNTS_PER_PIXEL * moved)
        return values

    @property
    def mouse(self) -> bool:
        """Whether the mouse's motion is part of an action."""
        return bool(self._bins) or (bool(self.spec.low) and any(name in self.spec.names for name in MOUSE))

    @property
    def _bins(self) -> dict[int, tuple[int, ...]]:
        return _binned(self.spec)

    def _in_words(self, column: int, value: float) -> str:
        if column in self._bins:
            value = self._bins[column][int(value)]
        name = self.spec.names[column] if self.spec.names else f"column {column}"
        return name if name in _FIRST_PERSON else f"{name} = {value:g}"

    def table(self) -> list[tuple[str, tuple[str, ...]]]:
        """(name of the action or of the column's value, keys of its buttons joined with +), for a sheet of help."""
        keys: dict[str, list[str]] = {}
        for key, button in self.buttons.items():
            keys.setdefault(button, []).append(key)
        if self.spec.kind != "Discrete":
            return [(self._in_words(column, value), tuple(keys[button])) for button, (column, value) in self.columns.items()]
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
    from 1, a column of a Box one key for its least and one for its greatest value. The columns of first-person games have keys of their own
    (`_FIRST_PERSON`, `_TURNS`), and their bins follow the mouse. Cars are driven with W, A, S, D or the arrows.
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
    own: dict[str, str] = {}
    for column, size in enumerate(spec.sizes):
        name = spec.names[column] if spec.names else ""
        bins = _binned(spec).get(column)
        if bins is not None:
            for code, counts in _TURNS[name].items():
                columns[f"{name}={counts}"], own[code] = (column, nearest_bin(bins, counts)), f"{name}={counts}"
            continue
        if size == 2 and name in _FIRST_PERSON:
            columns[name] = (column, 1.0)
            own |= dict.fromkeys(_FIRST_PERSON[name], name)
            continue
        values = (spec.low[column], spec.high[column]) if spec.low else tuple(float(value) for value in range(1, size))
        columns |= {f"{column}={value:g}": (column, value) for value in values}
        if spec.low and name in _DRIVEN:
            for button, value in zip(_DRIVEN[name], values, strict=True):
                own |= dict.fromkeys(_BUTTONS[button], f"{column}={value:g}")
    others = iter(code for code in _OTHERS if code not in own)
    return KeyMap(spec, own | {key(): button for button in columns if button not in own.values()}, (), columns)


def _without_opposites(pressed: Sequence[str]) -> list[str]:
    """The buttons, the latest first, except those that are opposite to a later one."""
    kept: list[str] = []
    for button in pressed:
        if not any(button in group and group.intersection(kept) for group in _OPPOSITES):
            kept.append(button)
    return kept


def _binned(spec: ActionSpec) -> dict[int, tuple[int, ...]]:
    """The columns of mouse bins, and the counts of their bins."""
    found = {column: bins_of(name, size) for column, (name, size) in enumerate(zip(spec.names, spec.sizes, strict=False))}
    return {column: bins for column, bins in found.items() if bins is not None and spec.kind == "MultiDiscrete"}


def action_name(spec: ActionSpec, number: int) -> str:
    """The name of a Discrete action, or its number where there are no names."""
    return spec.names[number] if spec.names else str(number)


def _chord(spec: ActionSpec, number: int) -> frozenset[str]:
    name = action_name(spec, number)
    if name == "NOOP" or (number == 0 and "NOOP" not in spec.names):
        return frozenset()
    composed = _COMPOSED.fullmatch(name)
    return frozenset(part for part in composed.groups() if part) if composed else frozenset((name,))
