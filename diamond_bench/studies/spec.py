"""A study's YAML file, typed: its question, arms, axes, games and seeds."""

import importlib.resources
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from diamond_bench.compose import Override, groups
from diamond_bench.errors import UserError, nearest

SCALES = ("paper", "small", "smoke", "tiny")
PROTOCOLS = ("world_model",)


@dataclass(frozen=True)
class Axis:
    """One thing a study varies: a config key and its values."""

    name: str
    key: str
    values: tuple[Any, ...]
    title: str


@dataclass(frozen=True)
class Primary:
    """The comparison the study was made for, stated before it runs."""

    metric: str
    baseline: Mapping[str, Any]
    margin: float
    """The smallest difference that matters, in the metric's unit."""


@dataclass(frozen=True)
class Study:
    """A study as its file says it, for one scale."""

    name: str
    question: str
    protocol: str
    games: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    """Keys that every variant shares (`set:` in the file)."""
    arms: Mapping[str, Mapping[str, Any]]
    """Named sets of keys; a study without arms has one, named ''. """
    axes: tuple[Axis, ...]
    primary: Primary
    paper: str = ""
    note: str = ""
    overridden: frozenset[str] = field(default=frozenset())
    """Config keys that the user set over the study's file."""


def studies_folder() -> Path:
    """Where the shipped studies lie: inside an installed wheel, or beside the package in a checkout."""
    shipped = Path(str(importlib.resources.files("diamond_bench"))) / "experiments"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "experiments"


def study_files() -> dict[str, Path]:
    """Names and files of the shipped studies."""
    return {file.stem: file for file in sorted(studies_folder().glob("*.yaml"))}


def load_study(name: str, scale: str) -> Study:
    """The study of this name, or of a YAML file's path, as it is at a scale. Raises UserError."""
    files = study_files()
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in files:
        raise UserError(f"unknown study {name!r}: {nearest(name, files)} (or give the path of a YAML file)")
    file = Path(name) if own else files[name]
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f"study {name}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"study {file}: not valid YAML: {' '.join(str(error).split())}") from None
    return _study(file.stem, str(file), content, scale)


_KEYS = ("question", "paper", "protocol", "note", "games", "seeds", "set", "arms", "axes", "primary", "scales")


def _study(name: str, where: str, content: Any, scale: str) -> Study:
    _mapping(content, where, _KEYS)
    for key in ("question", "protocol", "games", "seeds", "primary"):
        if key not in content:
            raise UserError(f"study {where}: {key} is missing")
    if content["protocol"] not in PROTOCOLS:
        raise UserError(f"study {where}: unknown protocol {content['protocol']!r}: {nearest(str(content['protocol']), PROTOCOLS)}")
    scales = _mapping(content.get("scales", {}), f"{where}: scales", SCALES)
    at_scale = _mapping(scales.get(scale, {}), f"{where}: scales.{scale}", ("games", "seeds", "axes"))
    axes = {}
    for axis_name, axis in _mapping(content.get("axes", {}), f"{where}: axes").items():
        _mapping(axis, f"{where}: axes.{axis_name}", ("key", "values", "title"))
        if not isinstance(axis.get("key"), str) or not isinstance(axis.get("values"), list) or not axis["values"]:
            raise UserError(f"study {where}: axes.{axis_name}: needs a key and a list of values")
        axes[axis_name] = Axis(axis_name, axis["key"], tuple(axis["values"]), axis.get("title", axis_name))
    for axis_name, values in _mapping(at_scale.get("axes", {}), f"{where}: scales.{scale}.axes", axes).items():
        if not isinstance(values, list) or not values:
            raise UserError(f"study {where}: scales.{scale}.axes.{axis_name}: expected a list of values")
        axes[axis_name] = replace(axes[axis_name], values=tuple(values))
    primary = _mapping(content["primary"], f"{where}: primary", ("metric", "baseline", "margin"))
    arms = _mapping(content.get("arms", {"": {}}), f"{where}: arms")
    for arm, keys in arms.items():
        _mapping(keys, f"{where}: arms.{arm}")
    return Study(
        name=name,
        question=content["question"],
        protocol=content["protocol"],
        games=games_of(at_scale.get("games", content["games"])),
        seeds=seeds_of(at_scale.get("seeds", content["seeds"])),
        settings=_mapping(content.get("set", {}), f"{where}: set"),
        arms=arms,
        axes=tuple(axes.values()),
        primary=Primary(primary.get("metric", ""), primary.get("baseline", {}), primary.get("margin", 0.0)),
        paper=content.get("paper", ""),
        note=content.get("note", ""),
    )


def _mapping(value: Any, where: str, keys: Sequence[str] | Mapping[str, Any] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"study {where}: expected a group of keys, got {value!r}")
    for key in value if keys is not None else ():
        if key not in (keys or ()):
            raise UserError(f"study {where}: unknown key {key!r}: {nearest(str(key), keys or ())}")
    return value


def games_of(value: Any) -> tuple[str, ...]:
    """A list of games from games=[A,B] or games=A, each a game ale-py has. Raises UserError naming the nearest."""
    from diamond_bench.envs.games import environment_id

    names = value if isinstance(value, (list, tuple)) else [value]
    if not names:
        raise UserError("games=[]: at least one game is needed")
    for name in names:
        environment_id(str(name))
    return tuple(dict.fromkeys(map(str, names)))


def seeds_of(value: Any) -> tuple[int, ...]:
    """seeds=3 is (0, 1, 2); seeds=[0,7] is (0, 7). Raises UserError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return tuple(range(value))
    if isinstance(value, (list, tuple)) and value and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in value):
        return tuple(dict.fromkeys(value))
    raise UserError(f"seeds={value}: expected a number of seeds (at least 1) or a list of them, such as seeds=3 or seeds=[0,7]")


def with_overrides(study: Study, overrides: Sequence[Override]) -> Study:
    """The study with a user's overrides: an axis' key replaces its values, another key is set for all variants or, with
    several values, becomes an axis. A key that tells the study's arms apart is refused."""
    for override in overrides:
        if override.key == "games":
            study = replace(study, games=games_of(override.values if len(override.values) > 1 else override.value))
        elif override.key == "seeds":
            study = replace(study, seeds=seeds_of(override.values if len(override.values) > 1 else override.value))
        elif override.key == "metrics":
            value = override.values if len(override.values) > 1 else override.value
            study = _with_key(study, "evaluation.metrics", (list(value) if isinstance(value, (list, tuple)) else [value],))
        elif override.key not in ("scale", "output_dir", "cluster"):
            study = _with_key(study, override.key, override.values)
    return study


def _with_key(study: Study, key: str, values: tuple[Any, ...]) -> Study:
    study = replace(study, overridden=study.overridden | {key})
    for axis in study.axes:
        if axis.key == key:
            return replace(study, axes=tuple(replace(a, values=values) if a is axis else a for a in study.axes))
    setters = [arm for arm, keys in study.arms.items() if key in keys or (key in groups() and any(k.startswith(f"{key}.") for k in keys))]
    if setters:
        raise UserError(
            f"{key}: set by the arms of {study.name} ({', '.join(setters[:3])}{', ...' if len(setters) > 3 else ''}); "
            "overriding it would make their names untrue. Copy the study's YAML and sweep the copy's path instead"
        )
    if len(values) == 1:
        return replace(study, settings={**study.settings, key: values[0]})
    return replace(study, axes=(*study.axes, Axis(key.rsplit(".", 1)[-1], key, values, key)))


def points(study: Study) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """(variant's name, arm, {axis: value}, {key: value}) of every variant: arms crossed with axes, save those an arm fixes."""
    for arm, keys in study.arms.items():
        fixed = {axis.name: keys[axis.key] for axis in study.axes if axis.key in keys}
        free = [axis for axis in study.axes if axis.name not in fixed]
        for values in itertools.product(*(axis.values for axis in free)):
            drawn = {axis.name: value for axis, value in zip(free, values, strict=True)}
            at = {axis.name: fixed.get(axis.name, drawn.get(axis.name)) for axis in study.axes}
            label = ", ".join(f"{axis.name}={_short(at[axis.name])}" for axis in study.axes)
            name = ", ".join(part for part in (arm, label) if part) or "default"
            yield name, arm, at, {**study.settings, **keys, **{axis.key: at[axis.name] for axis in study.axes}}


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_short, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
