"""Parsing of a user's score file: from bytes to columns of valid fields, with the line of every mistake. Without pandas."""

import csv
import difflib
import io
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from analysis.aggregates import ScoreError

COLUMNS = ("method", "game", "seed", "score", "source")

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:[,' _\u00a0\u2019\u202f][0-9]{3})+(?:\.[0-9]*)?")
_SEED = re.compile(r"[0-9]+")
_LARGEST_SCORE, _LARGEST_SEED, _LONGEST_NAME = 1e7, 2**31 - 1, 200


class ScoreFileError(ScoreError):
    """A score file that cannot be used: file, line, offending value, nearest valid one."""


@dataclass(frozen=True)
class Fields:
    """Columns of valid text fields, the line of each row in the file, and warnings."""

    columns: dict[str, list[str]]
    lines: list[int]
    flags: list[str]

    def refuse(self, path: str | Path, row: int, message: str) -> NoReturn:
        raise ScoreFileError(f"{path}: line {self.lines[row]}: {message}")


def read_fields(path: str | Path, games: Collection[str]) -> Fields:
    """The fields of a CSV of COLUMNS (in any order) for these games. Raises ScoreFileError at the first mistake."""
    text, flags = _decoded(Path(path))
    fields = _parsed(path, text, flags)
    checks: list[tuple[str, Callable[[str], bool], Callable[[str], str]]] = [
        ("method", _is_name, lambda name: f"method {_bad_name(name)}"),
        ("source", _is_name, lambda name: f"source {_bad_name(name)}"),
        ("game", set(games).__contains__, lambda game: f"unknown game {game[:60]!r}: {nearest_game(game, games)}"),
        ("seed", _is_seed, _bad_seed),
        ("score", _is_score, _bad_score),
    ]
    for column, is_valid, complaint in checks:
        values = fields.columns[column]
        if wrong := {value for value in set(values) if not is_valid(value)}:
            row = next(row for row, value in enumerate(values) if value in wrong)
            fields.refuse(path, row, complaint(values[row]))
    return fields


def _decoded(path: Path) -> tuple[str, list[str]]:
    if path.is_dir():
        raise ScoreFileError(f"{path}: a folder, not a CSV file")
    if not path.exists():
        neighbours = [file.name for file in path.parent.glob("*.csv")] if path.parent.is_dir() else []
        raise ScoreFileError(f"{path}: no such file" + (f"; {nearest(path.name, neighbours)}" if neighbours else ""))
    if not path.is_file():
        raise ScoreFileError(f"{path}: not a regular file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScoreFileError(f"{path}: cannot be read: {error.strerror}") from error
    if not data.strip():
        raise ScoreFileError(f"{path}: empty; expected the header {','.join(COLUMNS)} and a row for each run")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ScoreFileError(f"{path}: line 1: UTF-16; save it as UTF-8")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise ScoreFileError(f"{path}: line {line}: NUL bytes; expected text, a CSV in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ScoreFileError(f"{path}: line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8") from error
    flags = ["The file begins with a byte-order mark, which was skipped."] if data.startswith(b"\xef\xbb\xbf") else []
    return text, flags + (["The lines end as on Windows (CR LF), which changes nothing."] if b"\r\n" in data else [])


def _parsed(path: str | Path, text: str, flags: list[str]) -> Fields:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    same: dict[str, str] = {}  # one object per distinct text, so that a million rows fit into memory
    rows: list[list[str]] = [[] for _ in COLUMNS]
    lines: list[int] = []
    blank = 0
    try:
        header = [name.strip() for name in next(reader)]
        _check_header(path, header)
        for row in reader:
            if len(row) != len(COLUMNS):
                if not row:
                    blank += 1
                    continue
                hint = "" if len(row) < len(COLUMNS) else "; a comma inside a name needs quotes, inside a number it must go"
                raise ScoreFileError(f"{path}: line {reader.line_num}: {len(row)} fields, expected {len(COLUMNS)}{hint}")
            for values, value in zip(rows, row, strict=True):
                values.append(same.setdefault(value, value))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ScoreFileError(f"{path}: line {reader.line_num}: not a CSV row: {error}") from error
    if not lines:
        raise ScoreFileError(f"{path}: a header and no rows; expected a row for each run")
    stripped = {value: value.strip() for value in same}
    if changed := [value for value, inner in stripped.items() if value != inner]:
        flags.append(f"Spaces around fields were removed, such as in {changed[0]!r}.")
    if blank:
        flags.append(f"{blank} blank lines were skipped.")
    columns = {name: [stripped[value] for value in values] for name, values in zip(header, rows, strict=True)}
    return Fields(columns, lines, flags)


def _check_header(path: str | Path, header: list[str]) -> None:
    wanted = ",".join(COLUMNS)
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise ScoreFileError(f"{path}: line 1: fields are separated by {name}; expected commas: {wanted}")
    if not set(header) & set(COLUMNS):
        near = "; names are in small letters" if {name.casefold() for name in header} & set(COLUMNS) else ""
        raise ScoreFileError(f"{path}: line 1: {','.join(header)[:100]!r} is no header; expected {wanted}{near}")
    for name in header:
        if name not in COLUMNS:
            raise ScoreFileError(f"{path}: line 1: unknown column {name!r}: {nearest(name, COLUMNS)}")
        if header.count(name) > 1:
            raise ScoreFileError(f"{path}: line 1: column {name!r} is there {header.count(name)} times; expected {wanted}")
    if absent := [name for name in COLUMNS if name not in header]:
        raise ScoreFileError(f"{path}: line 1: column {absent[0]!r} is missing; expected {wanted}")


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable()


def _is_seed(text: str) -> bool:
    return not text or (_SEED.fullmatch(text) is not None and len(text) <= 10 and int(text) <= _LARGEST_SEED)


def _is_score(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and abs(float(text)) <= _LARGEST_SCORE


def _bad_name(name: str) -> str:
    if not name:
        return "is empty; every row names its method and its source"
    shown = repr(name if len(name) <= 60 else name[:60] + "...")
    return f"{shown} is not a name: expected at most {_LONGEST_NAME} printable characters"


def _bad_seed(text: str) -> str:
    if _SEED.fullmatch(text):
        return f"seed {text[:30]} is too large: expected 0 to {_LARGEST_SEED}"
    return f"seed {text[:60]!r} is not a whole number from 0; leave it empty for a mean over runs"


def _bad_score(text: str) -> str:
    if not text:
        return "score is empty; leave out the row of a run that has none"
    if text.lstrip("+-").casefold() in ("nan", "inf", "infinity", "na", "none", "null"):
        return f"score {text!r} is not a finite number; leave out the row of a run that has none"
    if _THOUSANDS.fullmatch(text):
        return f"score {text!r} has separators of thousands: write it without"
    if _NUMBER.fullmatch(text.replace(",", ".", 1)) and "," in text:
        return f"score {text!r} has a decimal comma: write a point"
    if _NUMBER.fullmatch(text):
        return f"score {text[:60]} is beyond any Atari score (largest taken: {_LARGEST_SCORE:g})"
    return f"score {text[:60]!r} is not a number"


def nearest_game(game: str, games: Iterable[str]) -> str:
    """The games that may be meant by a name in other notations (ALE/Ms_Pacman-v5, 'ms pacman', BreakoutNoFrameskip-v4)."""
    bare = re.sub(r"^ALE/|(NoFrameskip|Deterministic)?-v[0-9]$", "", game, flags=re.IGNORECASE)
    return nearest(re.sub(r"[^a-z0-9]", "", bare.casefold()), games)


def nearest(word: str, candidates: Iterable[str]) -> str:
    names = {str(name).casefold(): str(name) for name in candidates}
    if word.casefold() in names:
        return f"did you mean {names[word.casefold()]}?"
    if close := difflib.get_close_matches(word.casefold(), list(names), n=3, cutoff=0.6):
        return f"did you mean {' or '.join(names[name] for name in close)}?"
    shown = sorted(names.values())
    return f"valid: {', '.join(shown[:26])}{', ...' if len(shown) > 26 else ''}"
