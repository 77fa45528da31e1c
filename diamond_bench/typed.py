"""Conversion of configs from and to plain data, with a message for every mistake, and the part of a config that enters identities."""

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from diamond_bench.config import REGISTRIES, Option
from diamond_bench.errors import UserError, nearest

T = TypeVar("T")
MAX_TEXT = 4096
"""Maximum length of a setting's text in characters: that of a path in Linux."""
MAX_ITEMS = 1000
"""Maximum length of a setting's list."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def build(cls: type[T], mapping: Any, path: str = "") -> T:
    """Builds a `cls` from plain data (YAML, JSON). Raises UserError with the offending key and the nearest valid one."""
    if not isinstance(mapping, Mapping):
        raise UserError(f"{path or cls.__name__}: expected a group of keys, got {mapping!r}")
    fields, hints, renamed = _described(cls)  # type: ignore[arg-type]
    for key in mapping:
        if key in renamed and renamed[key] in mapping:
            raise UserError(f"{_join(path, key)!r} was renamed: write {_join(path, renamed[key])!r}")
        if key not in fields and key not in renamed:
            raise UserError(f"unknown key {_join(path, key)!r}: {nearest(str(key), fields, within=_join(path, ''))}")
    values = {}
    for key, value in mapping.items():
        where = _join(path, key)
        if key in renamed:
            key = renamed[key]
        if key in REGISTRIES and not (value is None and type(None) in typing.get_args(hints[key])):
            values[key] = _build_option(REGISTRIES[key], value, where)
        else:
            values[key] = _convert(hints[key], value, where, fields[key].metadata)
    return cls(**values)


@functools.cache
def _described(cls: type) -> tuple[dict[str, "dataclasses.Field[Any]"], dict[str, Any], dict[str, str]]:
    """The fields of a dataclass, their types, and fields by their former names. Resolving the types takes most of the time of a plan."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    renamed: dict[str, str] = {f.metadata["identity"]: f.name for f in fields.values() if f.metadata.get("identity")}
    return fields, typing.get_type_hints(cls), renamed


def _build_option(registry: Mapping[str, Option], value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: expected a group of keys with a name, got {value!r}")
    name = str(value.get("name"))
    if name not in registry:
        raise UserError(f"{path}.name: unknown {path.rsplit('.', 1)[-1]} {name!r}: {nearest(name, registry)}")
    return build(registry[name].settings_type(), value, path)


def _build_named(classes: tuple[Any, ...], value: Any, path: str) -> Any:
    """Builds one of several dataclasses, chosen by the value's `name`."""
    by_name = {str(f.default): cls for cls in classes for f in dataclasses.fields(cls) if f.name == "name"}
    name = value.get("name") if isinstance(value, Mapping) else value
    if name not in by_name:
        raise UserError(f"{path}: unknown {path.rsplit('.', 1)[-1]} {name!r}: {nearest(str(name), by_name)}")
    return build(by_name[name], value, path)


def _convert(hint: Any, value: Any, path: str, metadata: Mapping[str, Any]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, path)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = tuple(a for a in args if a is not type(None))
        if len(kinds) > 1 and all(dataclasses.is_dataclass(a) for a in kinds):
            return _build_named(kinds, value, path)
        words = [word for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]
        if value in words:
            return value
        try:
            return _convert(next(kind for kind in kinds if typing.get_origin(kind) is not Literal), value, path, metadata)
        except UserError as error:
            raise UserError(", or ".join((str(error), *words))) from None
    if origin is Literal:
        value = metadata.get("former", {}).get(value, value) if isinstance(value, str) else value
        if value not in args:
            raise UserError(f"{path}={value!r}: {nearest(str(value), args)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or not value:
            raise UserError(f"{path}={value!r}: expected a list that is not empty{_example(args[0], metadata)}")
        if len(value) > MAX_ITEMS:
            raise UserError(f"{path}: a list of {len(value):,} values; expected at most {MAX_ITEMS:,}")
        return tuple(_convert(args[0], item, f"{path}[{i}]", metadata) for i, item in enumerate(value))
    return _scalar(hint, value, path, metadata)


def _example(hint: type, metadata: Mapping[str, Any]) -> str:
    """Words with a list for a message: the first values of the neutral one, or any values of the type. Empty if there are none."""
    values = metadata.get("default") or {int: (1, 2), float: (0.5, 1.0), bool: (True, False), str: ("text", "text")}.get(hint)
    if not values:
        return ""
    return f", such as [{','.join(str(value).lower() if hint is bool else str(value) for value in values[:4])}]"


def _scalar(hint: type, value: Any, path: str, metadata: Mapping[str, Any]) -> Any:
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text, in quotes where it looks like a number"}[hint]
    if hint is float and ((isinstance(value, int) and not isinstance(value, bool)) or value in ("inf", ".inf")):
        value = float(str(value).removeprefix("."))
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool) or value != value:  # the last is NaN
        raise UserError(f"{path}={value!r}: expected {'a finite number' if value != value else wanted}")
    _check_bounded(value, path, metadata)
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}" if low is not None else f"at most {high}"
        raise UserError(f"{path}={value!r}: must be {bounds}")
    return value


def _check_bounded(value: Any, path: str, metadata: Mapping[str, Any]) -> None:
    """Raises UserError for infinities, integers beyond 64 bits, overlong texts and control characters, which no setting accepts."""
    if isinstance(value, float) and math.isinf(value) and math.inf not in (metadata.get("default"), metadata.get("maximum")):
        raise UserError(f"{path}={value!r}: expected a finite number")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{path}={value!r}: must be at most {2**63 - 1}")
    if isinstance(value, str) and (len(value) > MAX_TEXT or _CONTROL.search(value)):
        raise UserError(f"{path}={value!r}: expected a text of at most {MAX_TEXT} characters, without control characters")


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def to_plain(value: Any) -> Any:
    """Converts a config to plain data (JSON, YAML), which `build` reads. Infinity becomes the text "inf"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return "inf" if value == math.inf and isinstance(value, float) else value


def identity_fields(config: Any) -> dict[str, Any]:
    """The part of a config that enters an identity: fields that can change results and differ from their neutral value, and all names.

    Renamed fields and words keep their former spelling (`setting`).
    """
    kept: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value, key = getattr(config, f.name), f.metadata.get("identity") or f.name
        if f.metadata.get("recorded"):
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner = _group_identity(value)  # type: ignore[arg-type]
            if inner:
                kept[key] = inner
        elif f.name == "name" or f.default is dataclasses.MISSING or value != f.default:
            former = {new: old for old, new in f.metadata.get("former", {}).items()}
            kept[key] = former.get(value, value) if former else to_plain(value)
    return kept


@functools.lru_cache(maxsize=4096)
def _group_identity(group: Any) -> dict[str, Any]:
    """The identity fields of a nested group, computed once because the jobs of a plan share most groups. Callers must not change the
    result."""
    return identity_fields(group)
