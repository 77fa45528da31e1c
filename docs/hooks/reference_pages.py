"""The reference's pages, generated from the code: config keys, commands, metrics, studies and the Python API."""

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from typer.main import get_command

from diamond_bench.cli import app
from diamond_bench.compose import CONF, base, groups
from diamond_bench.config import ACTION_CONDITIONINGS, FRAME_CONDITIONINGS, REGISTRIES, SEGMENT_SOURCES, RunConfig
from diamond_bench.metrics import all_metrics, selectable
from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.metrics.header import Column
from diamond_bench.reading import read_yaml
from diamond_bench.studies.spec import SCALES, Study, load_study, study_files
from diamond_bench.typed import to_plain

GENERATED = "<!-- Generated from the code. Do not edit. -->"
_TYPES = {int: "integer", float: "number", str: "text"}
_NAMES: Mapping[str, Iterable[str]] = {
    "conditioning.frames": FRAME_CONDITIONINGS,
    "conditioning.actions": ACTION_CONDITIONINGS,
    "training.segments": SEGMENT_SOURCES,
    "evaluation.metrics": selectable(),
}
"""The names that a key takes and that its type does not list."""


def reference_pages() -> dict[str, str]:
    """The text of each generated page, by its name in the site."""
    return {
        "reference/config.md": config_page(),
        "reference/commands.md": commands_page(),
        "reference/metrics.md": metrics_page(),
        "reference/studies.md": studies_page(),
        "reference/api.md": API,
    }


API = """# Python API

This page lists every function of `diamond_bench.api`. [From Python and notebooks](../api.md) has examples.

```py
from diamond_bench import api

table = api.results("sampling_steps")
```

::: diamond_bench.api
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in line)} |" for line in lines)


def written(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    return value if isinstance(value, str) and value else json.dumps(to_plain(value)).strip('"')


def shown(value: Any) -> str:
    """A value in a table."""
    return f"`{written(value)}`"


def range_text(least: float | None, most: float | None) -> str:
    """An inclusive range; empty where there is none."""
    if least is None:
        return "" if most is None else f"at most {most:g}"
    return f"at least {least:g}" if most is None else f"{least:g} to {most:g}"


# Config keys


@dataclasses.dataclass(frozen=True)
class Group:
    """A dataclass of settings, and where its keys stand."""

    path: str
    """Dotted, such as `sampler.schedule`; empty for the run itself."""
    settings: type
    options: tuple[str, ...]
    """The names that choose these settings, where the group has several."""

    @property
    def title(self) -> str:
        """The heading of the group's section."""
        return " ".join([self.path or "The run", *([f"({', '.join(self.options)})"] if self.options else [])])


def config_groups(settings: type = RunConfig, path: str = "", options: tuple[str, ...] = ()) -> Iterator[Group]:
    """The groups of the config in the order of their fields. A group that several samplers share comes with each of them."""
    yield Group(path, settings, options)
    hints = typing.get_type_hints(settings)
    for f in dataclasses.fields(settings):
        for inner, names in choices_of(f.name, hints[f.name]).items():
            yield from config_groups(inner, f"{path}.{f.name}" if path else f.name, names)


def choices_of(name: str, hint: Any) -> dict[type, tuple[str, ...]]:
    """The dataclasses that a field may hold, each with the names that choose it; empty where the field holds plain values."""
    if name in REGISTRIES:
        registry = REGISTRIES[name]
        found: dict[type, list[str]] = {}
        for option in registry:
            found.setdefault(registry[option].settings_type(), []).append(option)
        return {settings: tuple(names) if len(found) > 1 else () for settings, names in found.items()}
    several = [cls for cls in (typing.get_args(hint) or (hint,)) if dataclasses.is_dataclass(cls)]
    named = {cls: {f.name: f.default for f in dataclasses.fields(cls)}.get("name") for cls in several if isinstance(cls, type)}
    return {cls: (str(name),) if len(several) > 1 else () for cls, name in named.items()}


@functools.cache
def field_docs(settings: type) -> Mapping[str, str]:
    """The text below each field of a dataclass, and of the dataclasses that it extends."""
    docs = dict(field_docs(settings.__mro__[1])) if dataclasses.is_dataclass(settings.__mro__[1]) else {}
    body = ast.parse(inspect.cleandoc(inspect.getsource(settings))).body[0].body  # type: ignore[attr-defined]
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[field.target.id] = str(text.value.value)  # type: ignore[union-attr]
    return docs


def type_and_range(hint: Any, metadata: Mapping[str, Any], names: Iterable[str] = ()) -> tuple[str, str]:
    """The type of a key's values, and which of its values are allowed. `names` are the registered ones, where there are such."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [type_and_range(arg, metadata, names) for arg in args if arg is not type(None)]
        kinds, ranges = (list(dict.fromkeys(part[i] for part in parts)) for i in (0, 1))
        return " or ".join(kinds + ["null"] * (type(None) in args)), " or ".join(ranges)
    if origin is tuple:
        kind, values = type_and_range(args[0], metadata, names)
        return f"list of {kind}s", f"each {values}"
    names = args if origin is typing.Literal else names
    if names:
        return "name", ", ".join(f"`{name}`" for name in names)
    if hint is bool:
        return "boolean", "`true`, `false`"
    return _TYPES[hint], range_text(metadata.get("minimum"), metadata.get("maximum")) or "any"


def config_rows(group: Group, defaults: Mapping[str, Any]) -> list[list[str]]:
    """A row for each key of a group that holds a plain value."""
    hints, rows = typing.get_type_hints(group.settings), []
    for f in dataclasses.fields(group.settings):
        if f.name == "name" or (choices_of(f.name, hints[f.name]) and f.default is not None):
            continue
        key = f"{group.path}.{f.name}" if group.path else f.name
        names = groups()[f.name] if f.name in REGISTRIES else _NAMES.get(key, ())
        kind, values = type_and_range(str if f.name in REGISTRIES else hints[f.name], f.metadata, names)
        default = shown(defaults.get(f.name, f.default))
        identity = "no" if f.metadata.get("recorded") else "yes"
        meaning = field_docs(group.settings).get(f.name, "")
        cells = [
            f"`{key}`<br>{meaning}" if meaning else f"`{key}`",
            kind,
            values,
            default,
            shown(f.default),
            identity,
        ]
        rows.append(cells)
    return rows


def default_values(group: Group) -> Mapping[str, Any]:
    """What a run at the default scale gets; for a choice that is not the default, what its first name stands for."""
    top, _, inner = group.path.partition(".")
    hydra = group.path.replace(".", "/")
    values: Any = base(((hydra, group.options[0]),) if group.options and hydra in groups() else ())
    if top == "family" and inner:  # a run names no family by default: the values of the family that has the group
        families = [to_plain(option.settings_type()()) for option in REGISTRIES["family"].values()]
        values = {"family": next(plain for plain in families if inner.split(".")[0] in plain)}
    for part in filter(None, (top, *inner.split("."))):
        values = values.get(part) or {}
    return typing.cast(Mapping[str, Any], values)


def config_page() -> str:
    """Every key of the config, group by group, and what the scales and the named options set."""
    header = ["Key and meaning", "Type", "Range", "Default", "Neutral", "In the id"]
    text = [
        "# Config keys",
        GENERATED,
        "This page lists every key of a run with its type, range, default and meaning. Set a key on the command line or in a study's file:",
        "```text\ndiamond-bench sweep sampling_steps scale=smoke training.learning_rate=0.002\n```",
        "*Default* is the value at scale `paper`. [Scales](#scales) and [options](#options) set other values. *In the id* says whether the "
        "key is part of a job's id. The *neutral* value never enters the id. Lists are written as `[1,2]`, and `null` stands for no value.",
    ]
    for settings, same in itertools.groupby(dict.fromkeys(config_groups()), lambda group: group.settings):
        first, *others = same
        if rows := config_rows(first, default_values(first)):
            also = f"The same keys exist in {', '.join(f'`{group.path}`' for group in others)}." if others else ""
            text += [f"## {first.title}", inspect.cleandoc(settings.__doc__ or ""), also, table(header, rows)]
    scales = {scale: flat(read_yaml(CONF / "scale" / f"{scale}.yaml")) for scale in SCALES}
    keys = dict.fromkeys(key for values in scales.values() for key in values)
    rows = [[f"`{key}`", *(shown(scales[scale][key]) if key in scales[scale] else "" for scale in SCALES)] for key in keys]
    text += ["## Scales", "`scale=NAME` sets these keys. An empty cell keeps the default.", table(["Key", *SCALES], rows)]
    text += ["## Options", "`GROUP=OPTION` chooses a named set of values.", table(["Group", "Option", "Values"], option_rows())]
    return "\n\n".join(text) + "\n"


def option_rows() -> list[list[str]]:
    """A row for each option of each group but the scales."""
    rows = []
    for group, options in groups().items():
        for option in options if group != "scale" else ():
            file = CONF / group / f"{option}.yaml"
            values = flat(read_yaml(file)) if file.exists() else {}
            said = settings_text({key: value for key, value in values.items() if key not in ("name", "defaults")})
            rows.append([f"`{group}`", f"`{option}`", said or "the neutral values"])
    return rows


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


# Commands


def leaf_commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""
    for inner, found in getattr(command, "commands", {}).items():
        yield from leaf_commands(found, f"{name} {inner}".strip())
    if not getattr(command, "commands", {}):
        yield name, command


def commands_page() -> str:
    """Every command with its arguments and options."""
    start = "This page lists every command with its arguments and options. `--help` prints the same:"
    text = ["# Commands", GENERATED, start, "```text\ndiamond-bench sweep --help\n```"]
    for name, command in leaf_commands(get_command(app)):
        usage = " ".join(part for part in (argument(param) for param in command.params) if part)
        rows = [[", ".join(f"`{opt}`" for opt in param.opts), param.help or ""] for param in command.params if is_option(param)]
        given = [[f"`{argument(param)}`", param.help or ""] for param in command.params if not is_option(param)]
        text += [f"## {name}", inspect.cleandoc(command.help or ""), f"```text\ndiamond-bench {name} {usage}".rstrip() + "\n```"]
        text += [table(["Argument or option", "Meaning"], given + rows)] if given + rows else []
    return "\n\n".join(text) + "\n"


def is_option(param: Any) -> bool:
    """Whether a parameter of a command is an option, and no argument."""
    return bool(param.param_type_name == "option")


def argument(param: Any) -> str:
    """An argument as the usage line shows it; empty for an option."""
    if is_option(param):
        return ""
    name = str(param.metavar or param.name.upper())
    if param.required or name.startswith("["):
        return name
    return f"[{name}]{'...' if param.nargs == -1 else ''}"


# Metrics


def metrics_page() -> str:
    """The metrics that an evaluation can measure, and every number of the results table."""
    weights = {name: all_metrics()[name].weights for name in selectable()}
    asked = [[f"`{name}`", f"`{file}`" if file else "none"] for name, file in weights.items()]
    agents = [
        [f"`{name}`", metric.title, unit_and_range(metric), metric.better]
        for name, metric in METRIC_INFO.items()
        if metric.protocol == "agent"
    ]
    return "\n\n".join(
        [
            "# Metrics",
            GENERATED,
            "This page lists every metric and every number of the results table. Choose the metrics of an evaluation with `metrics=`:",
            "```text\ndiamond-bench sweep sampling_steps scale=smoke 'metrics=[drift,state]'\n```",
            "[Evaluation](../evaluation.md) describes how they are measured.",
            "## Metrics of an evaluation",
            "Some metrics need weights. `diamond-bench weights fetch` downloads them.",
            table(["Name", "Weights"], asked),
            "## Numbers of world models",
            "Frames are in [0, 1], 64 x 64 RGB by default. A mean is over trajectories and t = 1..T. Numbers with `_final` are at t = T. "
            "Those with `_best_of_k` and `_mean_of_k` come from part 3 of an evaluation: the best of the K futures of a start, or their "
            "mean, averaged over starts. `_<object>` stands for each object of the game, `<lag>` for 0 to 15 steps, "
            "and `<sigma>` for a noise level.",
            re.sub(r"\]\((\w+\.md)", r"](../\1", metric_table()),
            "## Numbers of agents",
            "[Agents](../agents.md#what-is-measured) has the definitions.",
            table(["Metric", "Meaning", "Unit, range", "Better"], agents),
            "",
        ]
    )


def unit_and_range(column: Column) -> str:
    """The unit and the bounds of a number, as far as there are any."""
    return ", ".join(part for part in (column.unit, range_text(column.low, column.high)) if part)


def metric_table() -> str:
    """The numbers of world models: one row per definition, with all columns that share it."""
    rows: dict[tuple[tuple[str, ...], str], list[str]] = {}
    names: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for name, column in METRIC_INFO.items():
        if column.protocol != "world_model" or not column.definition:
            continue
        key = (column.needs, column.definition)
        names.setdefault(key, []).append(f"`{column.listed_as or name}`")
        asked = " or ".join(f"`{metric}`" for metric in column.needs) or "always"
        rows.setdefault(key, [asked, column.definition, unit_and_range(column), column.better])
    return table(
        ["Metric", "Measured with", "Definition", "Unit, range", "Better"],
        [[", ".join(dict.fromkeys(names[key])), *row] for key, row in rows.items()],
    )


# Studies


def studies_page() -> str:
    """Every shipped study at scale paper."""
    start = "This page lists every shipped study at scale `paper`. Name a study to run it, and add `scale=smoke` for a laptop:"
    sweep = "```text\ndiamond-bench sweep sampling_steps scale=smoke\n```"
    text = ["# Shipped studies", GENERATED, start, sweep, "[Studies](../studies.md) explains the terms."]
    for name, file in study_files().items():
        text += [f"## {name}", *study_section(load_study(name, "paper")), f"File: [{file.name}](../../experiments/{file.name})"]
    return "\n\n".join(text) + "\n"


def study_section(study: Study) -> list[str]:
    """A study's question and what it varies."""
    baseline = ", ".join(f"{key}={written(value)}" for key, value in study.primary.baseline.items())
    facts = [
        ["Paper", study.paper or "not in the paper"],
        ["Protocol", f"`{study.protocol}`"],
        ["Games", ", ".join(study.games)],
        ["Seeds", ", ".join(map(str, study.seeds))],
        *([["Shared settings", settings_text(study.settings)]] if study.settings else []),
        *([f"Axis `{axis.name}`: {axis.title}", f"`{axis.key}`: {', '.join(map(shown, axis.values))}"] for axis in study.axes),
        *([f"Arm `{arm}`", settings_text(keys)] for arm, keys in study.arms.items() if arm),
        ["Primary metric", f"`{study.primary.metric}`, against {baseline or 'the first variant'}"],
        *([["Note", study.note]] if study.note else []),
    ]
    return [study.question, table(["Part", "Value"], facts)]


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as they are written on the command line."""
    return ", ".join(f"`{key}={written(value)}`" for key, value in settings.items())
