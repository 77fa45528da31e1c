"""Reads files that a user or another program wrote: only regular files of bounded size. One loader for all YAML, one for all JSON."""

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from diamond_bench.errors import UserError

MAX_BYTES = 1_000_000
"""Maximum size of a YAML file in bytes. The largest shipped study has about 5,000."""
MAX_VALUES = 100_000
"""Maximum number of values in a YAML file. Values behind aliases count as often as they are used."""
MAX_LEVELS = 32
"""Maximum nesting of a YAML file, with aliases followed."""
MAX_DIGITS = 100
"""Maximum length of a number's text."""
DEEPEST = 64
"""Maximum number of levels of objects and lists in a JSON file."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PART = 2**24
"""Bytes per read, since a reader allocates memory for all that it requests."""
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_TAG = "tag:yaml.org,2002:"
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotAFile(OSError):
    """A FIFO, socket, device, folder or file that is too large, in place of a file of bounded size. `strerror` says which."""


def read_file(path: Path | str, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Never blocks, as reading a FIFO would.

    Raises OSError: FileNotFoundError and similar errors from the system, and NotAFile for another kind of file or one with more bytes.
    """
    descriptor = open_file(path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        data = bytearray()
        while len(data) <= most and (part := file.read(min(most + 1 - len(data), _PART))):
            data += part
    if len(data) > most:
        raise NotAFile(0, f"it has more than {most:,} bytes", str(path))
    return bytes(data)


def open_file(path: Path | str) -> int:
    """A descriptor that reads a regular file. Raises OSError, and NotAFile for another kind of file. Never blocks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:
        raise NotAFile(0, "its name holds a NUL character", repr(str(path))) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotAFile(0, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a regular file", str(path))
    return descriptor


def read_json(path: Path | str, most: int) -> dict[str, Any]:
    """The JSON object in a regular file of at most `most` bytes. Raises OSError, see `read_file`, and ValueError, see `load_json`."""
    return load_json(read_file(path, most))


def load_json(data: bytes | str) -> dict[str, Any]:
    """The JSON object in a text. Raises ValueError with the problem.

    It has at most DEEPEST levels, finite numbers, and text that can be encoded. The caller bounds the size and checks the shape.
    """
    try:
        data = data.encode() if isinstance(data, str) else data
        content = _DECODER.decode(data.decode())
        if data.count(b"{") + data.count(b"[") > DEEPEST:
            _check_depth(content)
        if _SURROGATE.search(data):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(f"it has more than {DEEPEST} levels") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})" if data else "empty") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {type(content).__name__}")
    return content


def _check_depth(content: Any) -> None:
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise RecursionError
        values = (value for outer in level for value in (outer.values() if isinstance(outer, dict) else outer))
        level = [value for value in values if isinstance(value, (dict, list))]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def read_yaml(path: Path) -> Any:
    """The plain data in a YAML file. Raises OSError, see `read_file`, and UserError, see `load_yaml`."""
    return load_yaml(read_file(path, MAX_BYTES), str(path))


@dataclass(frozen=True)
class _Value:
    """A value of the file with the cost of its aliases."""

    data: Any
    count: int = 1
    """Values in it, including itself."""
    levels: int = 0
    """Levels of nesting below it."""


def load_yaml(content: bytes | str, where: str) -> Any:
    """The single document of a YAML text as dicts, lists, texts, numbers, true, false and None.

    This is YAML 1.1 as PyYAML's safe loader reads it, including anchors and merge keys (`<<: *name`), with these differences: a date is a
    text. These are errors: a key that is given twice, a cycle, a tag of another type, a number beyond the range of floats, and more than
    MAX_BYTES bytes, MAX_VALUES values or MAX_LEVELS levels. Raises UserError, whose message begins with `where` and names the line.
    """
    if len(content) > MAX_BYTES:
        raise UserError(f"{where}: it has {len(content):,} bytes; at most {MAX_BYTES:,} are read as YAML")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        text.encode()
    except UnicodeError as error:
        raise UserError(f"{where}: not valid YAML: not a text in UTF-8 ({error.reason if hasattr(error, 'reason') else error})") from None
    try:
        return _Reader(where, text).document()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark is not None else ""
        raise UserError(f"{where}: {line}not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


class _Reader:
    """Builds the data from the parser's events, so that all bounds are checked before anything is expanded."""

    def __init__(self, where: str, text: str):
        self.where = where
        self.events: Iterator[Any] = yaml.parse(text, Loader=_PARSER)
        self.scalars = yaml.SafeLoader("")
        self.anchors: dict[str, _Value | None] = {}
        """None while the value is being read: an alias of it would be a cycle."""
        self.values = 0

    def document(self) -> Any:
        found: list[Any] = []
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if found:
                    self.refuse(event, "a second document begins; a file holds one")
                found.append(self.value(next(self.events), 0).data)
        return found[0] if found else None

    def refuse(self, event: Any, problem: str) -> NoReturn:
        raise UserError(f"{self.where}: line {event.start_mark.line + 1}: {problem}")

    def value(self, event: Any, level: int) -> _Value:
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, level)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            value = _Value(self.scalar(event))
            self.count(event, 1, level)
        else:
            self.count(event, 1, level + 1)
            value = self.sequence(event, level + 1) if isinstance(event, yaml.SequenceStartEvent) else self.mapping(event, level + 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        return value

    def count(self, event: Any, values: int, level: int) -> None:
        self.values += values
        if level > MAX_LEVELS:
            self.refuse(event, f"nested more than {MAX_LEVELS} levels deep, aliases followed")
        if self.values > MAX_VALUES:
            self.refuse(event, f"more than {MAX_VALUES:,} values, each counted as often as aliases repeat it")

    def alias(self, event: Any, level: int) -> _Value:
        if event.anchor not in self.anchors:
            self.refuse(event, f"*{event.anchor}: there is no &{event.anchor} before it")
        value = self.anchors[event.anchor]
        if value is None:
            self.refuse(event, f"*{event.anchor} is part of &{event.anchor}: a value cannot hold itself")
        self.count(event, value.count, level + value.levels)
        return value

    def sequence(self, start: Any, level: int) -> _Value:
        self.require_tag(start, "seq")
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, level))
        return _collected([item.data for item in items], items)

    def mapping(self, start: Any, level: int) -> _Value:
        self.require_tag(start, "map")
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        parts = []
        merges = 0
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            is_merge = isinstance(event, yaml.ScalarEvent) and self.tag(event) == "merge"
            key = self.value(event, level)
            value = self.value(next(self.events), level)
            parts += [key, value]
            if is_merge:
                merges += 1
                if merges > 1:
                    self.refuse(event, "the key << is given twice; merge several groups with <<: [*one, *other]")
                for group in self.merged_groups(event, value.data):
                    merged.update(group)
                continue
            if isinstance(key.data, (dict, list)):
                self.refuse(event, "a list or a group cannot be a key")
            if key.data in own:
                self.refuse(event, f"the key {key.data!r} is given twice")
            own[key.data] = value.data
        content = merged | own
        extra = max(0, len(content) - len(own))  # merged content counts too
        self.count(start, extra, level)
        return _collected(content, parts, extra)

    def merged_groups(self, event: Any, value: Any) -> list[dict[Any, Any]]:
        """The groups of a merge key, in ascending order of precedence."""
        groups = value if isinstance(value, list) else [value]
        if not all(isinstance(group, dict) for group in groups):
            self.refuse(event, "<< merges groups of keys: <<: *name or <<: [*one, *other]")
        return list(reversed(groups))

    def tag(self, event: Any) -> str:
        """The short name of a scalar's type. Dates and `=` are texts."""
        if event.tag is not None and event.tag != "!":
            return str(event.tag).removeprefix(_TAG)
        found = self.scalars.resolve(yaml.ScalarNode, event.value, event.implicit if event.tag is None else (False, True))
        short = str(found).removeprefix(_TAG)
        return "str" if short in ("timestamp", "value") else short

    def scalar(self, event: Any) -> Any:
        tag, text = self.tag(event), event.value
        if tag in ("str", "merge"):
            return text
        if tag not in ("int", "float", "bool", "null"):
            self.refuse(event, f"the tag {event.tag!r} is not read; write plain texts, numbers, lists and groups")
        if tag in ("int", "float") and len(text) > MAX_DIGITS:
            self.refuse(event, f"a number of {len(text):,} characters; at most {MAX_DIGITS} are read, or put it in quotes")
        try:
            value = getattr(self.scalars, f"construct_yaml_{tag}")(yaml.ScalarNode(_TAG + tag, text))
        except (ValueError, KeyError, IndexError, OverflowError):
            self.refuse(event, f"{text!r} cannot be read as {_NAMES[tag]}")
        if isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
            self.refuse(event, f"{text} is beyond the largest number that can be held; infinity is written .inf")
        return value

    def require_tag(self, event: Any, tag: str) -> None:
        if event.tag not in (None, "!", _TAG + tag):
            self.refuse(event, f"the tag {event.tag!r} is not read; write plain texts, numbers, lists and groups")


_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "null": "null"}


def _collected(data: Any, parts: list[_Value], extra: int = 0) -> _Value:
    return _Value(data, 1 + extra + sum(part.count for part in parts), 1 + max((part.levels for part in parts), default=0))
