"""The shapes of the store's JSON files. Each file is checked against its shape once, where it is read.

A shape is a function that raises `Unfit` for a value it does not accept. `fit` turns that into a DamagedFile, which names the place in the
file.
"""

import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from diamond_bench.studies.files import DamagedFile

Shape = Callable[[Any], None]
_MOST_TEXT = 1_000_000
_MOST_NAME, _MOST_PATH = 255, 1000
"""Bytes of a file's name on common file systems, and of a path below a job's folder."""
_MOST_WHOLE = 2**53
_MOST_NUMBER = 1e300
"""Work in FLOP is written as a whole number and passes 2**53."""
_MOST_SECONDS = 1e12
_KIND = re.compile(r"[a-z][a-z0-9_]{0,99}")
_ID = re.compile(r"[0-9a-f]{16}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Unfit(Exception):
    """A value that a shape does not accept: where it stands, what was expected, what was found."""

    def __init__(self, expected: str, found: Any):
        super().__init__(expected)
        self.where: list[str | int] = []
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        place = "".join(f"[{key}]" if isinstance(key, int) else f".{key[:60]}" for key in self.where).lstrip(".")
        return f"{ascii(place)[1:-1] or 'content'}: expected {self.expected}, got {reprlib.repr(self.found)}"


def fit(content: Any, shape: Shape, path: Path | str, advice: str = "") -> None:
    """Raises DamagedFile for `content` of the file at `path` that is not of `shape`; `advice` ends the message."""
    try:
        shape(content)
    except Unfit as error:
        raise DamagedFile(path, f"{error}{advice}") from None


# Single values


def anything(value: Any) -> None:
    """Any JSON value: it is shown and never computed with."""


def text(value: Any) -> None:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise Unfit("text", value)


def flag(value: Any) -> None:
    if not isinstance(value, bool):
        raise Unfit("true or false", value)


def whole(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MOST_WHOLE:
        raise Unfit("a whole number", value)


def count(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_WHOLE:
        raise Unfit("a whole number from 0", value)


def number(value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > _MOST_NUMBER:
        raise Unfit("a number", value)


def seconds(value: Any) -> None:
    """Seconds of a duration or since the epoch. A clock that was set back makes a duration negative."""
    number(value)
    if abs(value) > _MOST_SECONDS:
        raise Unfit("seconds", value)


def measure(value: Any) -> None:
    """A number of the results table; NaN and infinities are text, since JSON has none."""
    if value not in ("nan", "inf", "-inf"):
        number(value)


def file_name(value: Any) -> None:
    """The name of a file in a folder, without the folder."""
    text(value)
    if value in ("", ".", "..") or "/" in value or "\0" in value or len(value.encode()) > _MOST_NAME:
        raise Unfit("the name of a file", value)


def file_below(value: Any) -> None:
    """The path of a file below a folder, with `/`."""
    text(value)
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise Unfit("a path that does not lie outside of the job's folder", value)
    if not path.parts or path.as_posix() != value or len(value) > _MOST_PATH:
        raise Unfit("the path of a file", value)
    for part in path.parts:
        file_name(part)


def digest(value: Any) -> None:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise Unfit("a SHA-256 of 64 hex digits", value)


def job(value: Any) -> None:
    """A job as `[kind, id]`."""
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)):
        raise Unfit("a job as [kind, id]", value)
    if not _KIND.fullmatch(value[0]) or not _ID.fullmatch(value[1]):
        raise Unfit("a job as [kind, 16 hex digits]", value)


def job_text(value: Any) -> None:
    """A job as `kind/id`."""
    text(value)
    kind, _, identity = value.partition("/")
    if not _KIND.fullmatch(kind) or not _ID.fullmatch(identity):
        raise Unfit("a job as <kind>/<16 hex digits>", value)


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
            raise Unfit(f"a list of at least {least}" if least else "a list", value)
        for index, inner in enumerate(value):
            _inside(index, shape, inner)

    return check


def row(*shapes: Shape) -> Shape:
    """A list of as many values, each of its own shape."""

    def check(value: Any) -> None:
        if not isinstance(value, list) or len(value) != len(shapes):
            raise Unfit(f"a list of {len(shapes)}", value)
        for index, (shape, inner) in enumerate(zip(shapes, value, strict=True)):
            _inside(index, shape, inner)

    return check


def mapping(shape: Shape, key: Shape = anything) -> Shape:
    """An object whose keys fit `key` and whose values fit `shape`."""

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise Unfit("an object", value)
        for name, inner in value.items():
            key(name)
            _inside(name, shape, inner)

    return check


def record(needed: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with the `needed` keys; `optional` ones may be absent, and others are not looked at."""
    shapes = {**needed, **(optional or {})}

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise Unfit("an object", value)
        for name in needed:
            if name not in value:
                raise Unfit(f"the key {name!r}", list(value))
        for name, inner in value.items():
            if name in shapes:
                _inside(name, shapes[name], inner)

    return check


def _inside(key: str | int, shape: Shape, value: Any) -> None:
    try:
        shape(value)
    except Unfit as error:
        error.where.insert(0, key)
        raise


# The files

STATE = record(
    {"status": text},
    {
        **dict.fromkeys(("done", "total", "attempt", "pid", "since_done", "result_bytes", "result_time"), count),
        **dict.fromkeys(("started", "since_time", "updated", "seconds"), seconds),
        **dict.fromkeys(("text", "error", "host"), text),
    },
)
"""state.json"""
RESULT = record(
    {
        "id": text,
        "rows": listing(record({"metric": text, "value": measure}, {"measured": flag, "baseline": text})),
        "info": record(
            {},
            {
                "execution": record({}, {"compile": text}),
                "protocol_record": nullable(record({}, dict.fromkeys(("episodes_cut", "real_steps"), nullable(number)))),
                "work": number,
                "work_seconds": number,
                "notes": listing(text),
                "lines": listing(mapping(anything)),
            },
        ),
        "recorded": record(
            {},
            {
                "revision": nullable(whole),
                **dict.fromkeys(("commit", "python", "device", "device_name", "host"), nullable(text)),
                "versions": mapping(text),
                "seconds": seconds,
                "attempts": count,
            },
        ),
        "files": mapping(row(count, digest), file_below),
    },
    {"sha256": digest},
)
"""result.json"""
CLAIM = record({"host": text, "locked": flag})
"""claim-<number>"""
JOBS = record({"jobs": listing(job)})
"""What is read of plan.json and jobs/*.json to know which jobs were planned."""
_MARGIN = anything
"""studies.margin.parse_margin checks it."""
_PRIMARY = {
    "metric": text,
    "baseline": mapping(anything),
    "margin": _MARGIN,
    "variants": listing(mapping(listing(anything))),
    "test": text,
    "looks": listing(count),
    "holm_equivalence": flag,
}
PLAN = record(
    {
        **dict.fromkeys(("study", "question", "note", "protocol", "scale", "command"), text),
        "axes": mapping(record({"key": text, "title": text})),
        "primary": record({"metric": text}, {name: shape for name, shape in _PRIMARY.items() if name != "metric"}),
        "jobs": listing(job),
        "points": listing(row(text, text, listing(anything), text, whole, text, mapping(job))),
    },
    {"baseline_settings": mapping(mapping(anything))},
)
"""plan.json"""
REGISTRATION = record(
    {
        **dict.fromkeys(("study", "scale", "time"), text),
        "primary": record(_PRIMARY),
        "variants": listing(text),
        "games": listing(text),
        "seeds": listing(whole, least=1),
        "finished": listing(job_text),
    },
    {"evaluations": listing(row(text, text, whole, job_text))},
)
"""The content of registration*.json and change-*.json"""
REPORT = record({"results": text, "files": listing(file_name)})
"""What is read of report.json"""
BATCH = record(
    {
        **dict.fromkeys(("name", "label", "study", "kind"), text),
        "tasks": listing(listing(job)),
        **dict.fromkeys(("minutes", "signal_seconds", "retries"), count),
        "retry_seconds": seconds,
        "cancelled": listing(count),
    },
    {"device": text, "scratch": nullable(text), "mps": flag, "kinds": text, "array": nullable(text)},
)
"""slurm/<batch>/batch.json"""
TASK = record(
    {"given_up": listing(job_text), "failures": mapping(count)},
    {"begun_at": mapping(count), "fruitless": mapping(count), "not_before": seconds},
)
"""slurm/<batch>/task-<i>.json"""
