"""The shapes of the store's JSON files. Each file is checked against its shape once, where it is read.

A shape is a function that raises `Mismatch` for a value it does not accept (diamond_bench.shapes). `fit` turns that into a DamagedFile
that names the place in the file.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from diamond_bench.shapes import (
    Mismatch,
    Shape,
    anything,
    count,
    flag,
    listing,
    mapping,
    measure,
    nullable,
    number,
    record,
    row,
    seconds,
    text,
    whole,
)
from diamond_bench.store.files import DamagedFile
from diamond_bench.store.jobspec import ID

_MAX_NAME, _MAX_PATH = 255, 1000
"""Maximum bytes of a file's name on common file systems, and of a path below a job's folder."""
_KIND = re.compile(r"[a-z][a-z0-9_]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def fit(content: Any, shape: Shape, path: Path | str, advice: str = "") -> None:
    """Raises DamagedFile if `content` of the file at `path` does not have `shape`. `advice` ends the message."""
    try:
        shape(content)
    except Mismatch as error:
        raise DamagedFile(path, f"{error}{advice}") from None


# Values of the store


def file_name(value: Any) -> None:
    """The name of a file in a folder, without the folder."""
    text(value)
    if value in ("", ".", "..") or "/" in value or "\0" in value or len(value.encode()) > _MAX_NAME:
        raise Mismatch("the name of a file", value)


def file_below(value: Any) -> None:
    """The path of a file below a folder, with `/`."""
    text(value)
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise Mismatch("a path that does not lie outside of the job's folder", value)
    if not path.parts or path.as_posix() != value or len(value) > _MAX_PATH:
        raise Mismatch("the path of a file", value)
    for part in path.parts:
        file_name(part)


def digest(value: Any) -> None:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise Mismatch("a SHA-256 of 64 hex digits", value)


def job(value: Any) -> None:
    """A job as `[kind, id]`."""
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)):
        raise Mismatch("a job as [kind, id]", value)
    if not _KIND.fullmatch(value[0]) or not ID.fullmatch(value[1]):
        raise Mismatch("a job as [kind, 16 hex digits]", value)


def job_text(value: Any) -> None:
    """A job as `kind/id`."""
    text(value)
    kind, _, identity = value.partition("/")
    if not _KIND.fullmatch(kind) or not ID.fullmatch(identity):
        raise Mismatch("a job as <kind>/<16 hex digits>", value)


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
                "execution": record({}, {"compile": text, "precision": text}),
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
"""The keys of plan.json and jobs/*.json that show which jobs were planned."""
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
    {"baseline_settings": mapping(mapping(anything)), "sha256": digest},
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
"""The content of registration*.json and change-*.json."""
REPORT = record({"results": text, "files": listing(file_name)})
"""The keys of report.json that are used."""
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
AGENT = record({"frame_size": count})
"""The keys of agent.json that planning uses."""
GAMES = record({"games": listing(record({"score": number, "length": count, "index": count, "cut": flag}))})
"""games.json: the episodes that an unfinished evaluation of an agent has played."""
