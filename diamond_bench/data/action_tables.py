"""CSV files of actions, one row per frame of a video. Without numpy and torch, since planning reads them.

The header names the column `time` (seconds) and the actions: `NAME:N` is a choice of N values, 0 to N - 1, and `NAME:LOW..HIGH` is a
number. One file has columns of one of the two sorts.
"""

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

from diamond_bench.data.foreign import MAX_ACTIONS, MAX_STEPS
from diamond_bench.errors import UserError
from diamond_bench.reading import read_file
from diamond_bench.spaces import ActionSpec

TIME = "time"
_MAX_BYTES = 2**28
_CHOICE = re.compile(r"([^:,]{1,60}):(\d{1,9})")
_NUMBER = re.compile(r"([^:,]{1,60}):(-?[\d.eE+-]+?)\.\.(-?[\d.eE+-]+)")
_EXPECTED = "expected time and then NAME:N (a choice of N values) or NAME:LOW..HIGH (a number), such as time,fire:2,turn:23"


@dataclass(frozen=True)
class ActionTable:
    """The actions of a video."""

    actions: ActionSpec
    rows: list[tuple[float, ...]]
    """One per frame: the columns of the action."""
    rate: float
    """Frames per second, from the first and the last time."""


def read_table(path: Path) -> ActionTable:
    """Reads a table.

    Raises UserError with the line if it is no such table, an action is outside of its column, or a time is more than half a frame away from
    an even rate.
    """
    try:
        lines = [line for line in csv.reader(io.StringIO(read_file(path, _MAX_BYTES).decode("utf-8-sig"), newline="")) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    actions = _spec(path, lines[0] if lines else [])
    low, high = actions.bounds
    names, width = [name.partition(":")[0].strip() for name in lines[0]], 1 + len(low)
    times, rows = [], []
    for number, line in enumerate(lines[1:], 2):
        where = f"{path}: line {number}"
        if len(line) != width:
            raise UserError(f"{where} has {len(line)} values; expected {width}: {', '.join(names)}")
        time, *row = (_number(where, name, text) for name, text in zip(names, line, strict=False))
        for text, value, least, most in zip(line[1:], row, low, high, strict=True):
            if not least <= value <= most or (not actions.low and value != int(value)):
                sort = "a number" if actions.low else "a whole number"
                raise UserError(f"{where}: {text[:40]!r} is outside of its column; expected {sort} from {least} to {most}")
        times.append(time)
        rows.append(tuple(row))
    if not 2 <= len(rows) <= MAX_STEPS:
        raise UserError(f"{path}: {len(rows)} rows of actions; expected one per frame, at least 2")
    rate = (len(times) - 1) / (times[-1] - times[0]) if times[-1] > times[0] else math.nan
    for number, time in enumerate(times):
        if not abs(time - times[0] - number / rate) <= 0.5 / rate:
            raise UserError(
                f"{path}: line {number + 2} has time {time:g}; expected {times[0] + number / rate:g}: equal steps from frame to frame"
            )
    return ActionTable(actions, rows, rate)


def _spec(path: Path, header: list[str]) -> ActionSpec:
    shown = f"{path}: its header is {','.join(header)[:100]!r}"
    choices, numbers = ([pattern.fullmatch(name.strip()) for name in header[1:]] for pattern in (_CHOICE, _NUMBER))
    if len(header) < 2 or header[0].strip() != TIME or not (all(choices) or all(numbers)):
        raise UserError(f"{shown}; {_EXPECTED}")
    found = [match for match in (*choices, *numbers) if match]
    names = tuple(match[1].strip() for match in found)
    try:
        if len(set(names)) < len(names):
            raise ValueError("two columns have one name")
        if numbers[0]:
            spec = ActionSpec.continuous(tuple(float(match[2]) for match in found), tuple(float(match[3]) for match in found), names)
        else:
            sizes = tuple(int(match[2]) for match in found)
            spec = ActionSpec.columns(sizes, names) if len(sizes) > 1 else ActionSpec.discrete(sizes[0])
        if not len(names) <= spec.width <= MAX_ACTIONS or (not spec.low and 0 in spec.sizes):
            raise ValueError(f"it has {spec.width} values; from 1 to {MAX_ACTIONS:,} can be imported")
    except ValueError as error:
        raise UserError(f"{shown}: {error}; {_EXPECTED}") from None
    return spec


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {name} is {text[:40]!r}; expected a number")
    return value
