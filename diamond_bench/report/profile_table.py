"""A profile for people and for programs, from the stored result of its job."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError
from diamond_bench.profiling.lines import Line
from diamond_bench.store.artifacts import Store, StoredResult
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import Profile

if TYPE_CHECKING:
    from rich.table import Table

_TIMES = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_MANY = 1000
"""Numbers from here on are shown without decimals."""


def profile_records(store: Store, ref: JobRef) -> list[dict[str, Any]]:
    """One record per line of a finished profile: the fields of `profiling.lines.Line`, and in each record a description of the profile."""
    spec, result = store.spec(ref), store.result(ref)
    config, info, recorded = spec.config, result.info, result.recorded
    assert isinstance(config, Profile)
    lines = lines_of(result)
    about = {
        "job": ref.id,
        "device": config.device_name,
        "asked": config.executed,
        "precision": info["ways"][0]["precision"],
        "num_threads": config.execution.num_threads,
        "scale": config.scale,
        "game": config.training.game,
        "compared": config.compare,
        "ways": info["ways"],
        "software": config.software,
        "versions": recorded.get("versions"),
        "commit": recorded.get("commit"),
        "host": config.host,
        **{name: info[name] for name in ("measured", "load_before", "load_after", "product", "epochs", "updates", "notes")},
    }
    return [{**about, **line} for line in lines.values()]


def lines_of(result: StoredResult) -> dict[str, Mapping[str, Any]]:
    """The lines of a profile's result by name, in its order. Raises UserError if another version of the code wrote them."""
    lines, fields = result.info.get("lines"), {field.name for field in dataclasses.fields(Line)}
    if not isinstance(lines, list) or any(not isinstance(line, Mapping) or set(line) != fields for line in lines):
        raise UserError("this profile was written by another version of diamond-bench; measure again with seed=1")
    return {str(line["name"]): line for line in lines}


def executed_with(config: Profile, result: StoredResult) -> str:
    """The time, the device and the software of a profile."""
    return f"measured {result.info['measured']} on {config.host}; {config.software}"


def profile_table(result: StoredResult, compared: str) -> "Table":
    """The lines of a profile: median and quartiles, arithmetic, and the ratio to what it was `compared` with, if anything."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("what")
    for head in ("median", "quartiles", "FLOP/s", "of peak", *((compared, f"times as fast as {compared}") if compared else ())):
        shown.add_column(head, justify="right", no_wrap=True)
    for line in lines_of(result).values():
        cells = [amount(line["median"], line["unit"]), _range(line), *_arithmetic(line)]
        if compared:
            cells += ["" if line["other"] is None else amount(line["other"], line["unit"]), _ratio(line)]
        shown.add_row(escape("  " * line["level"] + line["what"]), *cells)
    return shown


def amount(value: float | None, unit: str) -> str:
    """A number with the largest unit in which the rounded number is 1 or more."""
    if value is None:
        return "not measured here"
    if unit.startswith("syncs/"):
        return f"{value:.3g} {unit}"
    ladder = _TIMES if unit == "s" else tuple((size, prefix + ("B" if unit == "bytes" else unit)) for size, prefix in _PREFIXES)
    size, name = next(((size, name) for size, name in ladder if float(f"{abs(value) / size:.3g}") >= 1), ladder[-1])
    return f"{_rounded(value / size)} {name}"


def _rounded(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= _MANY else f"{float(f'{value:.3g}'):g}"


def _range(line: Mapping[str, Any]) -> str:
    return "" if line["low"] is None else f"{amount(line['low'], line['unit'])} to {amount(line['high'], line['unit'])}"


def _arithmetic(line: Mapping[str, Any]) -> tuple[str, str]:
    rate, share = line["flop_per_second"], line["share_of_peak"]
    return "" if rate is None else amount(rate, "FLOP/s"), "" if share is None else f"{share:.1%}"


def _ratio(line: Mapping[str, Any]) -> str:
    if line["ratio"] is None:
        return ""
    around = "" if line["ratio_low"] is None else f" ({line['ratio_low']:.2f} to {line['ratio_high']:.2f})"
    return f"{line['ratio']:.2f}{around}"
