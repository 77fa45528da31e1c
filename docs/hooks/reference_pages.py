"""The reference's pages, generated from the code: config keys, commands, metrics, studies and the Python API."""

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from typer.main import get_command

from diamond_bench.cli import app
from diamond_bench.compose import CONF, base, groups
from diamond_bench.config import REGISTRIES, RunConfig
from diamond_bench.metrics import all_metrics, selectable
from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.reading import read_yaml
from diamond_bench.studies.spec import SCALES, Study, load_study, study_files
from diamond_bench.typed import to_plain

GENERATED = "Generated from the code. Do not edit."
_TYPES = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}


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

[From Python and notebooks](../api.md) has examples. This page lists every function of `diamond_bench.api`.

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


def type_text(hint: Any, metadata: Mapping[str, Any]) -> str:
    """The values that a key takes."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [type_text(arg, metadata) for arg in args if arg is not type(None)]
        return " or ".join([*inner, "null"] if type(None) in args else inner)
    if origin is typing.Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin is tuple:
        return f"list of: {type_text(args[0], metadata)}"
    limits = range_text(metadata.get("minimum"), metadata.get("maximum"))
    return ", ".join(filter(None, (_TYPES.get(hint, str(hint)), limits)))


def config_rows(group: Group, defaults: Mapping[str, Any]) -> list[list[str]]:
    """A row for each key of a group that holds a plain value."""
    hints, rows = typing.get_type_hints(group.settings), []
    for f in dataclasses.fields(group.settings):
        if f.name == "name" or (choices_of(f.name, hints[f.name]) and f.default is not None):
            continue
        values = ", ".join(map(shown, groups()[f.name])) if f.name in REGISTRIES else type_text(hints[f.name], f.metadata)
        key = f"{group.path}.{f.name}" if group.path else f.name
        default = shown(defaults.get(f.name, f.default))
        identity = "no" if f.metadata.get("recorded") else "yes"
        meaning = field_docs(group.settings).get(f.name, "")
        cells = [
            f"`{key}`<br>{meaning}" if meaning else f"`{key}`",
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
    for part in filter(None, (top, *inner.split("."))):
        values = values.get(part) or {}
    return typing.cast(Mapping[str, Any], values)


def config_page() -> str:
    """Every key of the config, group by group, and what the scales and the named options set."""
    header = ["Key and meaning", "Values", "Default", "Neutral", "In the identity"]
    text = [
        "# Config keys",
        GENERATED,
        "Set a key with `KEY=VALUE`. *Default* is the value at scale `paper`. *Neutral* is the value that leaves the job's id unchanged. "
        "A key that is not in the identity never changes the id. [Scales](#scales) and [options](#options) set some keys.",
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
    text = ["# Commands", GENERATED, "`diamond-bench COMMAND --help` shows the same."]
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
    if param.metavar:
        return str(param.metavar)
    return str(param.name.upper()) if param.required else f"[{param.name.upper()}]"


# Metrics


def metrics_page() -> str:
    """What an evaluation may be asked for, and every number of the results table."""
    weights = {name: all_metrics()[name].weights for name in selectable()}
    asked = [[f"`{name}`", f"`{file}`" if file else "none"] for name, file in weights.items()]
    rows = []
    for name, metric in METRIC_INFO.items():
        kind = "cost" if metric.cost else metric.protocol.replace("_", " ")
        meaning = f"`{name}`<br>{metric.title}{f': {metric.definition}' if metric.definition else ''}"
        needs = f"`{metric.needs}`" if metric.needs else ""
        rows.append([meaning, metric.unit, metric.better, range_text(metric.low, metric.high), kind, needs])
    return "\n\n".join(
        [
            "# Metrics",
            GENERATED,
            "[Studies](../studies.md) describes how each metric is measured.",
            "## Metrics of an evaluation",
            "`metrics=[NAME,...]` chooses among these. Some need downloaded weights.",
            table(["Name", "Weights"], asked),
            "## Numbers of the results table",
            table(["Metric and meaning", "Unit", "Better", "Range", "Kind", "Asked by"], rows),
            "",
        ]
    )


def metric_table() -> str:
    """The table of metrics in docs/studies.md: a row for each definition, with all columns that share it."""
    rows: dict[tuple[str, str], list[str]] = {}
    names: dict[tuple[str, str], list[str]] = {}
    for name, column in METRIC_INFO.items():
        if column.protocol != "world_model" or not column.definition:
            continue
        key = (column.needs, column.definition)
        names.setdefault(key, []).append(f"`{column.listed_as or name}`")
        reach = range_text(column.low, column.high)
        asked = f"`{column.needs}`" if column.needs else "always"
        rows.setdefault(key, [asked, column.definition, ", ".join(part for part in (column.unit, reach) if part), column.better])
    return table(
        ["Metric", "Asked for by", "Definition", "Unit, range", "Better"],
        [[", ".join(dict.fromkeys(names[key])), *row] for key, row in rows.items()],
    )


# Studies


def studies_page() -> str:
    """Every shipped study at scale paper."""
    text = ["# Shipped studies", GENERATED, "The tables show each study at scale `paper`. [Studies](../studies.md) explains the terms."]
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
    ]
    return [study.question, table(["Part", "Value"], facts)]


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as they are written on the command line."""
    return ", ".join(f"`{key}={written(value)}`" for key, value in settings.items())
