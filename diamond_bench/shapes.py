"""Shapes of data read from JSON. A shape is a function that raises `Mismatch` for a value it does not accept."""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Any], None]
_MAX_TEXT = 1_000_000
_MAX_WHOLE = 2**53
_MAX_NUMBER = 1e300
"""Work in FLOP is written as an integer and can exceed 2**53."""
_MAX_SECONDS = 1e12


class Mismatch(ValueError):
    """A value that a shape does not accept: its place, the expectation, and the value."""

    def __init__(self, expected: str, found: Any):
        super().__init__(expected)
        self.where: list[str | int] = []
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        place = "".join(f"[{key}]" if isinstance(key, int) else f".{key[:60]}" for key in self.where).lstrip(".")
        return f"{ascii(place)[1:-1] or 'content'}: expected {self.expected}, got {reprlib.repr(self.found)}"


# Single values


def anything(value: Any) -> None:
    """Any JSON value, for data that is shown and never computed with."""


def text(value: Any) -> None:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise Mismatch("text", value)


def flag(value: Any) -> None:
    if not isinstance(value, bool):
        raise Mismatch("true or false", value)


def whole(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MAX_WHOLE:
        raise Mismatch("a whole number", value)


def count(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_WHOLE:
        raise Mismatch("a whole number from 0", value)


def number(value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > _MAX_NUMBER:
        raise Mismatch("a number", value)


def seconds(value: Any) -> None:
    """Seconds of a duration or since the epoch. A clock that was set back makes a duration negative."""
    number(value)
    if abs(value) > _MAX_SECONDS:
        raise Mismatch("seconds", value)


def measure(value: Any) -> None:
    """A number of the results table. NaN and infinities are text, since JSON has none."""
    if value not in ("nan", "inf", "-inf"):
        number(value)


# Values of values


def nullable(shape: Shape) -> Shape:
    def check(value: Any) -> None:
        if value is not None:
            shape(value)

    return check


def listing(shape: Shape, least: int = 0) -> Shape:
    """A list of at least `least` values of one shape."""

    def check(value: Any) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise Mismatch(f"a list of at least {least}" if least else "a list", value)
        for index, inner in enumerate(value):
            _inside(index, shape, inner)

    return check


def bounded(shape: Shape, most: int) -> Shape:
    """A text or a list of one shape with at most `most` characters or values. Its length is checked first."""

    def check(value: Any) -> None:
        if isinstance(value, (str, list)) and len(value) > most:
            raise Mismatch(f"at most {most}", value)
        shape(value)

    return check


def row(*shapes: Shape) -> Shape:
    """A list with one value for each shape."""

    def check(value: Any) -> None:
        if not isinstance(value, list) or len(value) != len(shapes):
            raise Mismatch(f"a list of {len(shapes)}", value)
        for index, (shape, inner) in enumerate(zip(shapes, value, strict=True)):
            _inside(index, shape, inner)

    return check


def mapping(shape: Shape, key: Shape = anything) -> Shape:
    """An object whose keys fit `key` and whose values fit `shape`."""

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise Mismatch("an object", value)
        for name, inner in value.items():
            key(name)
            _inside(name, shape, inner)

    return check


def record(needed: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with the `needed` keys. `optional` ones may be absent, and other keys are ignored."""
    shapes = {**needed, **(optional or {})}

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise Mismatch("an object", value)
        for name in needed:
            if name not in value:
                raise Mismatch(f"the key {name!r}", list(value))
        for name, inner in value.items():
            if name in shapes:
                _inside(name, shapes[name], inner)

    return check


def _inside(key: str | int, shape: Shape, value: Any) -> None:
    try:
        shape(value)
    except Mismatch as error:
        error.where.insert(0, key)
        raise
