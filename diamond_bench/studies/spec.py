"""A study's YAML file, typed: its question, arms, axes, games and seeds."""

import dataclasses
import functools
import itertools
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diamond_bench.compose import STUDY_FILE_KEYS
from diamond_bench.config import RunConfig
from diamond_bench.errors import UserError, nearest
from diamond_bench.metrics.columns import METRIC_INFO, columns_of, pools, result_metrics
from diamond_bench.reading import MAX_BYTES, load_yaml, read_file
from diamond_bench.studies.bounds import check_key, check_text, check_variants, seeds_of, study_name
from diamond_bench.studies.looks import read_looks
from diamond_bench.studies.margin import Margin, stated_margin
from diamond_bench.studies.shipped import study_files as study_files
from diamond_bench.typed import to_plain

SCALES = ("paper", "small", "laptop", "smoke", "tiny")
PROTOCOLS = ("world_model", "agent")
TESTS = ("permutation", "t")
"""Tests of the primary comparison. The first is the default."""
_PRIMARY_KEYS = ("metric", "baseline", "margin", "variants", "test", "looks", "holm_equivalence")
_UNUSED_KEYS = {
    "world_model": ("reward_end", "actor_critic", "agent", "agent_evaluation"),
    "agent": (
        "data",
        "probe",
        "inverse_dynamics",
        "evaluation",
        "training.num_steps",
        "training.action_shift",
        "training.milestones",
        "training.cooldown",
        "training.checkpoint_every",
        "training.log_every",
        "training.segments",
    ),
}
"""Groups and keys without effect in a protocol."""
_STUDY_KEYS = ("scale", "cluster", "seed", "game", "games", "seeds", "metrics", "output_dir")
"""Keys that configure the whole study or a command. If a variant set one, it would be ignored or wrong."""


@dataclass(frozen=True)
class Axis:
    """One axis of a study: a config key and its values."""

    name: str
    key: str
    values: tuple[Any, ...]
    title: str


@dataclass(frozen=True)
class Primary:
    """The comparison that answers the study's question."""

    metric: str
    baseline: Mapping[str, Any]
    margin: Margin
    """The smallest difference that matters."""
    variants: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    """The variants that answer the question: those in one of these groups, with one of its values of each arm and axis. All variants if
    there is no group. The others are exploratory."""
    test: str = TESTS[0]
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which the results are looked at, ascending. Empty for a single look, at all seeds."""
    holm_equivalence: bool = False
    """Whether Holm's correction is also applied to the tests of equivalence."""


@dataclass(frozen=True)
class Study:
    """A study as defined by its file, for one scale."""

    name: str
    question: str
    protocol: str
    games: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    """Keys that all variants share (`set:` in the file)."""
    arms: Mapping[str, Mapping[str, Any]]
    """Named sets of keys. A study without arms has one, named ''."""
    axes: tuple[Axis, ...]
    primary: Primary
    paper: str = ""
    note: str = ""
    overridden: frozenset[str] = field(default=frozenset())
    """Config keys that the user overrode."""


def unknown_study(name: str, root: Path, swept: Collection[str]) -> UserError:
    """The refusal of a study's name. `swept`: the names of the studies in the store `root`, if the command accepts those."""
    if name in swept:
        return UserError(f"{root / 'studies' / name} holds no plan.json; sweep the study's YAML file again, which repeats no finished job")
    return UserError(f"unknown study {name!r}: {nearest(name, [*study_files(), *swept])} (or give the path of a YAML file)")


def load_study(name: str, scale: str) -> Study:
    """The study of this name, or in this YAML file, at a scale. Raises UserError.

    A user's own file must have its own name, since plans and results are stored under a study's name.
    """
    files = study_files()
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in files:
        raise unknown_study(name, Path(), ())
    file = Path(name) if own else files[name]
    stem = study_name(file)
    try:
        text = read_file(file, MAX_BYTES)
    except OSError as error:
        raise UserError(f"study {name}: cannot be read: {error.strerror}") from None
    content = load_yaml(text, f"study {file}")
    if own and file.stem in files and text != files[file.stem].read_bytes():
        raise UserError(f"study {file}: {file.stem} is the name of a shipped study, which is another; rename the file, and sweep it then")
    return _study(stem, str(file), content, scale)


_KEYS = (*STUDY_FILE_KEYS, "games", "seeds")


def _study(name: str, where: str, content: Any, scale: str) -> Study:
    _mapping(content, where, _KEYS)
    for key in ("question", "protocol", "games", "seeds", "primary"):
        if key not in content:
            raise UserError(f"study {where}: {key} is missing")
    for key in ("question", "paper", "note"):
        check_text(content.get(key, ""), f"{where}: {key}")
    if content["protocol"] not in PROTOCOLS:
        raise UserError(f"study {where}: unknown protocol {content['protocol']!r}: {nearest(str(content['protocol']), PROTOCOLS)}")
    scales = _mapping(content.get("scales", {}), f"{where}: scales", SCALES)
    said = "smoke" if scale == "laptop" and scale not in scales else scale  # a longer smoke, of the same variants
    at_scale = _mapping(scales.get(said, {}), f"{where}: scales.{said}", ("games", "seeds", "set", "axes", "arms", "primary"))
    axes: dict[str, Axis] = {}
    for axis_name, axis in _mapping(content.get("axes", {}), f"{where}: axes").items():
        _mapping(axis, f"{where}: axes.{axis_name}", ("key", "values", "title"))
        if not isinstance(axis.get("key"), str) or not isinstance(axis.get("values"), list) or not axis["values"]:
            raise UserError(f"study {where}: axes.{axis_name}: needs a key and a list of values")
        title = check_text(axis.get("title", axis_name), f"{where}: axes.{axis_name}.title")
        same = [other.name for other in axes.values() if other.key == axis["key"]]
        if same:
            raise UserError(f"study {where}: axes {same[0]} and {axis_name} have one key, {axis['key']}")
        axes[axis_name] = Axis(axis_name, axis["key"], tuple(axis["values"]), title)
    written = tuple(axes.values())
    for axis_name, values in _mapping(at_scale.get("axes", {}), f"{where}: scales.{scale}.axes", axes).items():
        if not isinstance(values, list) or not values:
            raise UserError(f"study {where}: scales.{scale}.axes.{axis_name}: expected a list of values")
        axes[axis_name] = replace(axes[axis_name], values=tuple(values))
    protocol = content["protocol"]
    settings = _settings(content.get("set", {}), f"{where}: set", protocol)
    settings |= _settings(at_scale.get("set", {}), f"{where}: scales.{said}.set", protocol)
    games = games_of(at_scale.get("games", content["games"]))
    most_games = max(games, games_of(content["games"]), key=len)
    arms = _arms(content.get("arms", {"": {}}), f"{where}: arms", protocol, written)
    primary = _primary(content["primary"], f"{where}: primary", protocol, most_games, arms, written)
    own = isinstance(at_scale.get("arms"), dict)  # arms of this scale alone, in place of the file's
    if own:
        arms = _arms(at_scale["arms"], f"{where}: scales.{scale}.arms", protocol, written)
        written = tuple(axis for axis in written if any(axis.key not in keys for keys in arms.values()))  # the arm's name says the rest
        axes = {axis.name: axes[axis.name] for axis in written}
    if own or "primary" in at_scale:
        wanted = at_scale.get("primary", content["primary"])
        primary = _primary(wanted, f"{where}: scales.{scale}.primary", protocol, most_games, arms, written)
    if "arms" in at_scale and not own:
        arms = _chosen_arms(at_scale["arms"], arms, primary, f"{where}: scales.{scale}.arms")
    check_variants(arms, {axis.key: axis.values for axis in axes.values()}, f"study {where}")
    _settings({axis.key: None for axis in written}, f"{where}: axes", protocol)
    for axis in (*written, *axes.values()):
        check_axis(axis, f"study {where}: axes.{axis.name}")
    return Study(
        name=name,
        question=content["question"],
        protocol=content["protocol"],
        games=games,
        seeds=seeds_of(at_scale.get("seeds", content["seeds"])),
        settings=settings,
        arms=arms,
        axes=tuple(axes.values()),
        primary=primary,
        paper=content.get("paper", ""),
        note=content.get("note", ""),
    )


def _mapping(value: Any, where: str, keys: Sequence[str] | Mapping[str, Any] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"study {where}: expected a group of keys, got {'nothing' if value is None else repr(value)}")
    for key in value:
        if not isinstance(key, str):
            raise UserError(f"study {where}: the key {key!r} is no text; put it in quotes")
        check_key(key, where)
        if keys is not None and key not in keys:
            raise UserError(f"study {where}: unknown key {key!r}: {nearest(key, keys)}")
    return value


def _arms(value: Any, where: str, protocol: str, axes: Sequence[Axis]) -> dict[str, dict[str, Any]]:
    """Arms by their names, as a file defines them."""
    arms = _mapping(value, where)
    if not arms:
        raise UserError(f"study {where}: there are none, so there would be no variant; add one, or leave the key out")
    check_variants(arms, {axis.key: axis.values for axis in axes}, f"study {where.partition(':')[0]}")
    for arm, keys in arms.items():
        _settings(keys, f"{where}.{arm}", protocol)
    return arms


def _chosen_arms(names: Any, arms: dict[str, Any], primary: Primary, where: str) -> dict[str, Any]:
    """The arms that run at a scale, in the file's order. The comparison's baseline must be one of them."""
    if not isinstance(names, list) or not names:
        raise UserError(f"study {where}: expected a list of arms, or a group of arms by name")
    for name in names:
        if name not in arms:
            raise UserError(f"study {where}: unknown arm {name!r}: {nearest(str(name), arms)}")
    if (baseline := primary.baseline.get("arm", names[0])) not in names:
        raise UserError(
            f"study {where}: the baseline's arm {baseline!r} (primary.baseline) is not among them, so nothing could be compared"
        )
    return {arm: keys for arm, keys in arms.items() if arm in names}


def check_use(key: str, protocol: str, where: str) -> None:
    """Raises UserError for a key without effect in a protocol. `where`: the beginning of the message."""
    if any(key == unused or key.startswith(f"{unused}.") for unused in _UNUSED_KEYS[protocol]):
        raise UserError(f"{where}: the protocol {protocol} does not use {key}, so it has no effect")


def _settings(value: Any, where: str, protocol: str) -> dict[str, Any]:
    """Keys of a run's config that variants set."""
    settings = _mapping(value, where)
    for key in settings:
        check_use(key, protocol, f"study {where}")
        if key in _STUDY_KEYS or key.startswith("cluster."):
            how = "write evaluation.metrics" if key == "metrics" else "it is said for the whole study, or on the command line"
            raise UserError(f"study {where}: {key} cannot be set by variants: {how}")
    return settings


def check_axis(axis: Axis, where: str) -> None:
    """Refuses values that would make the same variant twice."""
    plain = [_comparable(value) for value in axis.values]
    twice = [value for i, value in enumerate(plain) if value in plain[:i]]
    if twice:
        raise UserError(f"{where}: the value {_short(twice[0])} is given twice")
    if len(plain) > 1 and (axis.key in _recorded_keys() or axis.key.partition(".")[0] == "cluster"):
        one = "a sweep uses one dataset" if axis.key == "data.dataset" else "it cannot change a result"
        raise UserError(f"{where}: {axis.key} takes one value, not {len(plain)}: {one}")


def _comparable(value: Any) -> Any:
    return "inf" if value in ("inf", ".inf") else to_plain(value)


@functools.cache
def _recorded_keys() -> frozenset[str]:
    """Dotted keys of the settings that are recorded but enter no identity."""

    def walk(cls: Any, prefix: str) -> Iterator[str]:
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            if f.metadata.get("recorded"):
                yield f"{prefix}{f.name}"
            for hint in (hints[f.name], *typing.get_args(hints[f.name])):
                if dataclasses.is_dataclass(hint):
                    yield from walk(hint, f"{prefix}{f.name}.")

    return frozenset(walk(RunConfig, ""))


def _primary(
    value: Any, where: str, protocol: str, games: Sequence[str], arms: Mapping[str, Mapping[str, Any]], axes: Sequence[Axis]
) -> Primary:
    """The comparison in the file. The variants that it names must exist in the file, at any scale."""
    content = _mapping(value, where, _PRIMARY_KEYS)
    metric, test, corrected = content.get("metric"), content.get("test", TESTS[0]), content.get("holm_equivalence", False)
    if metric not in (known := result_metrics(protocol)):
        raise UserError(f"study {where}.metric: unknown metric {metric!r}: {columns_of(str(metric)) or nearest(str(metric), known)}")
    if not METRIC_INFO[metric].better:
        raise UserError(f"study {where}.metric: {metric} has no better side, so no comparison of it has an answer")
    if len(games) > 1 and not pools(metric):
        raise UserError(f"study {where}.metric: {metric} of {len(games)} games cannot be pooled, each game has its own scale; write hns")
    margin = stated_margin(metric, content.get("margin"), f"study {where}.margin")
    if test not in TESTS:
        raise UserError(f"study {where}.test: unknown test {test!r}: {nearest(str(test), TESTS)}")
    looks = read_looks(content["looks"], f"study {where}.looks") if "looks" in content else ()
    if not isinstance(corrected, bool):
        raise UserError(f"study {where}.holm_equivalence={corrected!r}: expected true or false")
    keys = ["arm", *(axis.name for axis in axes)]
    baseline = _mapping(content.get("baseline", {}), f"{where}.baseline", keys)
    given = content.get("variants", [])
    family = []
    for group in given if isinstance(given, list) else [given] if given else []:
        chosen = _mapping(group, f"{where}.variants", keys)
        family.append({key: v if isinstance(v, list) else [v] for key, v in chosen.items()})
    cells = [{"arm": arm, **at} for arm, at, _ in _cells(arms, axes)]
    groups = [("variants", group) for group in family]
    for name, chosen in (("baseline", {key: [wanted] for key, wanted in baseline.items()}), *groups):
        for key, wanted in ((key, wanted) for key, values in chosen.items() for wanted in values):
            found = list(dict.fromkeys(_short(cell[key]) for cell in cells))
            if all(cell[key] != wanted for cell in cells):
                raise UserError(f"study {where}.{name}.{key}={wanted!r}: no variant has it: {nearest(str(wanted), found)}")
        if not any(all(cell[key] in values for key, values in chosen.items()) for cell in cells):
            named = ", ".join(f"{key}={_short(values[0] if len(values) == 1 else values)}" for key, values in chosen.items())
            raise UserError(f"study {where}.{name}: no variant has all of {named}")
    variants = tuple({key: tuple(to_plain(values)) for key, values in group.items()} for group in family)
    return Primary(metric, to_plain(baseline), margin, variants, test, looks, corrected)


def games_of(value: Any) -> tuple[str, ...]:
    """A list of games from games=[A,B] or games=A, each a game of some family of environments. Raises UserError with the nearest names."""
    from diamond_bench.envs.games import check_game

    names = value if isinstance(value, (list, tuple)) else [value]
    if not names:
        raise UserError("games=[]: at least one game is needed")
    for place, name in enumerate(names):
        check_game(str(name))
        if name in names[:place]:
            raise UserError(f"games=[{','.join(map(str, names))}]: {name} is given twice")
    return tuple(map(str, names))


def points(study: Study) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """(variant's name, arm, {axis: value}, {key: value}) of every variant: arms crossed with axes, except those that an arm fixes."""
    for arm, at, keys in _cells(study.arms, study.axes):
        label = ", ".join(f"{axis.name}={_short(at[axis.name])}" for axis in study.axes)
        name = ", ".join(part for part in (arm, label) if part) or "default"
        yield name, arm, at, {**study.settings, **keys, **{axis.key: at[axis.name] for axis in study.axes}}


def _cells(arms: Mapping[str, Mapping[str, Any]], axes: Sequence[Axis]) -> Iterator[tuple[str, dict[str, Any], Mapping[str, Any]]]:
    """(arm, {axis: value}, the arm's keys) of every variant."""
    for arm, keys in arms.items():
        fixed = {axis.name: keys[axis.key] for axis in axes if axis.key in keys}
        free = [axis for axis in axes if axis.name not in fixed]
        for values in itertools.product(*(axis.values for axis in free)):
            drawn = {axis.name: value for axis, value in zip(free, values, strict=True)}
            yield arm, {axis.name: fixed.get(axis.name, drawn.get(axis.name)) for axis in axes}, keys


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_short, value))}]"
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}" if float(f"{value:g}") == value else str(value)  # different values have different names
