"""From Hydra's groups and a user's overrides to plain config data. Hydra composes each choice of one group once. Without torch."""

import contextlib
import functools
import itertools
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diamond_bench.config import OBJECTIVES, SAMPLERS, SCHEDULES, WORLD_FAMILIES, WorldSettings
from diamond_bench.config.cluster import ONLY_IN_PROFILES
from diamond_bench.config.worlds import DIAMOND
from diamond_bench.errors import UserError, nearest
from diamond_bench.reading import MAX_DIGITS, MAX_LEVELS, read_yaml
from diamond_bench.typed import build, to_plain

CONF = Path(__file__).parent / "conf"
_REGISTRIES = {"objective": OBJECTIVES, "sampler": SAMPLERS, "sampler/schedule": SCHEDULES, "family": WORLD_FAMILIES}
STUDY_KEYS = ("games", "seeds", "metrics", "output_dir")
"""Overrides that configure the study; all other keys configure the run."""
STUDY_FILE_KEYS = ("question", "paper", "protocol", "note", "set", "arms", "axes", "primary", "scales")
"""Keys that only the file of a study may have. It also has `games` and `seeds`."""
MAX_TOKEN = 100_000
"""Maximum length of an override in characters."""
MAX_SWEPT = 10_000
"""Maximum number of values of one override."""


@dataclass(frozen=True)
class Override:
    """One `key=value` of the command line or of a study. `values` has several entries if it sweeps."""

    key: str
    values: tuple[Any, ...]

    @property
    def is_group(self) -> bool:
        """Whether the key chooses a group's option (objective=ddpm) and does not set a value (objective.loc=0)."""
        return self.key in groups()

    @property
    def value(self) -> Any:
        """The only value. Raises UserError if the override sweeps."""
        if len(self.values) != 1:
            raise UserError(f"{self.key}: takes one value, got {len(self.values)}: {', '.join(map(str, self.values))}")
        return self.values[0]


@functools.cache
def groups() -> dict[str, tuple[str, ...]]:
    """Hydra's groups and their options: the files of conf/, and the options that exist only in registries."""
    found: dict[str, list[str]] = {}
    for file in sorted(CONF.glob("*/**/*.yaml")):
        found.setdefault(file.parent.relative_to(CONF).as_posix(), []).append(file.stem)
    found["family"] = [DIAMOND, *found.get("family", ())]
    for group, registry in _REGISTRIES.items():
        found[group] += [name for name in registry if name not in found[group]]
    return {group: tuple(options) for group, options in found.items()}


@functools.cache
def scale_keys(scale: str) -> frozenset[str]:
    """The dotted keys that a scale sets. Overriding one of them changes the scale's name to `name*`."""
    return frozenset(_leaves(read_yaml(CONF / "scale" / f"{scale}.yaml"), ""))


def parse(tokens: Sequence[str]) -> list[Override]:
    """Parses overrides in Hydra's grammar (a=1, a=1,2, a=[1,2], a=null). Raises UserError for anything else."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    overrides = []
    for token in tokens:
        key, equals, text = token.partition("=")
        _check_bounded(token, text if key not in ("output_dir", "cluster") else "")
        if not equals or not key.strip():
            raise UserError(f"{token!r}: expected key=value")
        if key.startswith(("+", "~")) or "_target_" in token or key.startswith("hydra") or "${" in token:
            raise UserError(f"{token!r}: additions, deletions, interpolations, hydra.* and _target_ are not supported; write key=value")
        if (top := key.partition(".")[0]) in STUDY_FILE_KEYS:
            raise UserError(
                f"{key}: {top} belongs to the study's file, so copy the study's YAML under another name, change it there, and sweep the "
                "copy's path (docs/studies.md)"
            )
        if key in ("output_dir", "cluster"):  # a path is used directly, since Hydra's grammar does not accept all its characters
            overrides.append(Override(key, (text,)))
            if key == "cluster":
                cluster_profile(text)
            continue
        try:
            parsed = parser.parse_override(token)
            if parsed.is_sweep_override():
                if not parsed.is_discrete_sweep() or isinstance(parsed.value(), Glob):
                    raise UserError(f"{token!r}: only lists of values can sweep, such as {key}=1,2,3")
                swept = itertools.islice(parsed.sweep_iterator(transformer=lambda v: v), MAX_SWEPT + 1)
                values = tuple(_plain(v) for v in swept)
            else:
                values = (_plain(parsed.value()),)
        except HydraException as error:
            raise UserError(f"{token!r}: cannot be read ({str(error).splitlines()[0]}); quote texts with special characters") from None
        except (ValueError, OverflowError, RecursionError):  # conversions of the parser
            raise UserError(f"{token!r}: cannot be read; quote texts with special characters") from None
        if len(values) > MAX_SWEPT:
            raise UserError(f"{key}: more than {MAX_SWEPT:,} values")
        override = Override(parsed.key_or_group, values)
        _check_key(override)
        overrides.append(override)
    seen: set[str] = set()
    for override in overrides:
        if override.key in seen:
            raise UserError(f"{override.key}: given twice")
        seen.add(override.key)
    return overrides


def _check_bounded(token: str, parsed: str) -> None:
    """Refuses input that would take the parser minutes or crash it. `parsed` is the text that its grammar reads."""
    if len(token) > MAX_TOKEN or len(parsed.encode(errors="replace")) > MAX_TOKEN:
        raise UserError(f"{token!r}: {len(token):,} characters; expected at most {MAX_TOKEN:,}")
    if any(character in token for character in map(chr, (*range(9), *range(11, 32), 127))):
        raise UserError(f"{token!r}: control characters are not allowed")
    if re.search(rf"[0-9_]{{{MAX_DIGITS + 1}}}", parsed):
        raise UserError(f"{token!r}: a number of more than {MAX_DIGITS} digits")
    if parsed.count(",") >= MAX_SWEPT:
        raise UserError(f"{token!r}: more than {MAX_SWEPT:,} values")
    level = 0
    for character in parsed:
        level += (character in "([{") - (character in ")]}")
        if level > MAX_LEVELS:
            raise UserError(f"{token!r}: brackets more than {MAX_LEVELS} deep")


def _plain(value: Any) -> Any:
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        raise UserError(f"{value!r}: a group of keys cannot be given at once; set its keys one by one")
    return value


def _check_key(override: Override) -> None:
    key = override.key
    if key.startswith("cluster.") and key.removeprefix("cluster.") in ONLY_IN_PROFILES:
        raise UserError(f"{key}: can only be set in a cluster's profile (cluster=FILE.yaml, see docs/slurm.md)")
    if key in groups():
        for value in override.values:
            if value not in groups()[key]:
                raise UserError(f"{key}={value}: unknown {key}: {nearest(str(value), groups()[key])}")
    elif key not in STUDY_KEYS and "." not in key and key not in ("game", "seed"):
        inner = [known for known in known_keys() if known.endswith(f".{key}")]
        top = [group for group in groups() if "/" not in group]
        hint = f"did you mean {', '.join(inner)}?" if inner else nearest(key, [*top, *STUDY_KEYS])
        raise UserError(f"unknown key {key!r}: {hint}")
    elif key == "seed":
        raise UserError("seed: a study takes seeds=N (0..N-1) or seeds=[a,b]")
    elif key == "game":
        raise UserError("game: a study takes games=[Breakout,Pong]")


@functools.cache
def known_keys() -> tuple[str, ...]:
    """All dotted keys of the default config."""
    return tuple(_leaves(base(()), ""))


def _leaves(mapping: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@dataclass(frozen=True)
class _Family:
    family: WorldSettings


def built_family(plain: Any) -> WorldSettings:
    """The settings of a family from plain data with its name. Keys that are left out are neutral. Raises UserError."""
    return build(_Family, {"family": plain}).family


@functools.cache
def base(choices: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The composition for these (group, option) choices, as plain data. Do not modify the result.

    The groups do not depend on each other, so Hydra composes each choice of one group once and alone. The scale is laid over them.
    """
    choices, profile = _without_profile(choices)
    on_file = [(group, option) for group, option in choices if (CONF / group / f"{option}.yaml").exists()]
    chosen, plain = {**_defaults(), **dict(on_file)}, dict(_composed("config", ("~scale",)))
    for top in {group.partition("/")[0] for group, _ in on_file} - {"scale"}:
        inner = tuple(f"{group}={option}" for group, option in on_file if group.startswith(f"{top}/"))
        plain |= _composed(f"{top}/{chosen[top]}", inner)
    plain = with_groups(plain, read_yaml(CONF / "scale" / f"{chosen['scale']}.yaml"))
    schedule = plain["sampler"]["schedule"]
    for group, option in sorted(set(choices) - set(on_file)):  # samplers before their schedules
        neutral = None if (group, option) == ("family", DIAMOND) else to_plain(_REGISTRIES[group][option].settings_type()(name=option))
        plain = with_values(plain, {group.replace("/", "."): neutral})
        if group == "sampler" and any(chosen == "sampler/schedule" for chosen, _ in on_file):
            plain["sampler"]["schedule"] = schedule
    if plain.get("family"):  # a file of conf/family holds only the values that differ from the neutral ones
        plain["family"] = to_plain(built_family(plain["family"]))
    if plain["cluster"]["name"] != "local":  # a scale's number of workers is for this machine only
        plain["cluster"] = with_groups(read_yaml(CONF / "cluster" / f"{plain['cluster']['name']}.yaml"), profile)
    return plain


@functools.cache
def _composed(file: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Hydra's composition of a file of conf/ and its defaults, as plain data."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "In .*: Defaults list is missing `_self_`", UserWarning)  # values follow the defaults
        composed = compose(file, overrides=list(overrides))
    container = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


@functools.cache
def _defaults() -> dict[str, str]:
    """The option of each group that config.yaml names."""
    return {group: option for entry in read_yaml(CONF / "config.yaml")["defaults"] if entry != "_self_" for group, option in entry.items()}


def cluster_profile(option: str) -> dict[str, Any]:
    """The content of cluster=`option` in addition to its name: nothing for an option of conf/cluster, else the content of the user's own
    profile. That is the YAML file at this path, or with this name in $XDG_CONFIG_HOME/diamond_bench/clusters (by default ~/.config). Raises
    UserError."""
    if option in groups()["cluster"]:
        return {"name": option}
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "diamond_bench" / "clusters"
    own = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if not option.endswith((".yaml", ".yml")) and option not in own:
        raise UserError(
            f"cluster={option}: unknown cluster: {nearest(option, [*groups()['cluster'], *own])} (or give a profile's YAML file)"
        )
    file = own.get(option) or Path(option).expanduser()
    try:
        content = read_yaml(file)
    except OSError as error:
        raise UserError(f"cluster={option}: {file} cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise UserError(f"cluster={option}: {file} holds no group of keys")
    content = {"name": "slurm", **content}
    if content["name"] not in groups()["cluster"]:
        raise UserError(f"cluster={option}: {file}: name: {nearest(str(content['name']), groups()['cluster'])}")
    return content


def _without_profile(choices: tuple[tuple[str, str], ...]) -> tuple[tuple[tuple[str, str], ...], dict[str, Any]]:
    """The choices with a shipped cluster in place of a user's profile, and the content of that profile."""
    option = dict(choices).get("cluster")
    profile = cluster_profile(option) if option is not None else {}
    named = {"cluster": str(profile["name"])} if profile else {}
    return tuple({**dict(choices), **named}.items()), profile if option not in groups()["cluster"] else {}


def with_groups(mapping: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested plain data, updated with another's values."""
    both = {
        key: with_groups(mapping[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(mapping.get(key), dict)
    }
    return {**mapping, **over, **both}


def with_values(mapping: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested plain data with dotted keys set. `typed.build` refuses wrong names later."""
    out = dict(mapping)
    for dotted, value in values.items():
        first, _, rest = dotted.partition(".")
        if rest:
            inner = out.get(first)
            if first == "family" and inner is None:
                raise UserError(f"{dotted}: no family is chosen, so this is the denoiser of DIAMOND; choose one too, such as family=oracle")
            if not isinstance(inner, dict):
                near = nearest(dotted, known_keys())  # without a near key, the names of this level are enough
                raise UserError(f"unknown key {dotted!r}: {near if near.startswith('did') else nearest(first, out)}")
            out[first] = with_values(inner, {rest: value})
        else:
            out[first] = value
    return out


def output_root(overrides: Sequence[Override]) -> Path:
    """The store's folder: output_dir=, else $DIAMOND_BENCH_OUTPUTS, else ./outputs. Raises UserError if it is a file."""
    given = next((str(o.value) for o in overrides if o.key == "output_dir"), None)
    with contextlib.suppress(RuntimeError):
        root = Path(given or os.environ.get("DIAMOND_BENCH_OUTPUTS") or "outputs").expanduser()
        if root.exists() and not root.is_dir():
            raise UserError(f"the store {root} is a file, not a folder; choose another with output_dir=FOLDER")
        return root
    raise UserError(f"output_dir={given}: no such home folder")
