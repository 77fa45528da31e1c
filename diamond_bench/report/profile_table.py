"""A profile as people and programs read it, from the stored result of its job."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.studies.jobspec import JobRef
from diamond_bench.studies.kinds import Profile
from diamond_bench.studies.store import Store, StoredResult

if TYPE_CHECKING:
    from rich.table import Table

_TIMES = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def profile_records(store: Store, ref: JobRef) -> list[dict[str, Any]]:
    """A record a line of a finished profile: `jobs.profile.Line`'s fields, and of which job, device, precision, scale and game it is."""
    spec, result = store.spec(ref), store.result(ref)
    config: Profile = spec.config
    about = {"job": ref.id, "device": config.device_name, "executed": config.executed, "scale": config.scale, "game": config.training.game}
    return [{**about, **line} for line in lines_of(result).values()]


def lines_of(result: StoredResult) -> dict[str, Mapping[str, Any]]:
    """The lines of a profile's result by name, in its order."""
    return {str(line["name"]): line for line in result.info["lines"]}


def profile_table(result: StoredResult) -> "Table":
    """The lines of a profile: median and quartiles, arithmetic, and against plain where that was compared."""
    from rich.markup import escape
    from rich.table import Table

    lines = lines_of(result).values()
    compared = any(line["ratio"] is not None for line in lines)
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("what")
    for head in ("median", "quartiles", "FLOP/s", "of peak", *(("plain", "times as fast as plain") if compared else ())):
        shown.add_column(head, justify="right", no_wrap=True)
    for line in lines:
        cells = [_amount(line["median"], line["unit"]), _range(line), *_arithmetic(line)]
        if compared:
            cells += ["" if line["plain"] is None else _amount(line["plain"], line["unit"]), _ratio(line)]
        shown.add_row(escape("  " * line["level"] + line["what"]), *cells)
    return shown


def _amount(value: float | None, unit: str) -> str:
    """A number with its unit."""
    if value is None:
        return "not measured here"
    if unit == "1":
        return f"{value:.3g}"
    if unit == "s":
        size, name = next(((size, name) for size, name in _TIMES if value >= size), _TIMES[-1])
        return f"{value / size:.3g} {name}" if value / size < 1000 else f"{value / size:.0f} {name}"
    if unit == "bytes":
        return f"{value / 1e9:.3g} GB"
    size, name = next(((size, name) for size, name in _PREFIXES if value >= size), _PREFIXES[-1])
    return f"{value / size:.3g} {name}{unit}"


def _range(line: Mapping[str, Any]) -> str:
    return "" if line["low"] is None else f"{_amount(line['low'], line['unit'])} to {_amount(line['high'], line['unit'])}"


def _arithmetic(line: Mapping[str, Any]) -> tuple[str, str]:
    rate, share = line["flop_per_second"], line["share_of_peak"]
    return "" if rate is None else _amount(rate, "FLOP/s"), "" if share is None else f"{share:.1%}"


def _ratio(line: Mapping[str, Any]) -> str:
    if line["ratio"] is None:
        return ""
    around = "" if line["ratio_low"] is None else f" ({line['ratio_low']:.2f} to {line['ratio_high']:.2f})"
    return f"{line['ratio']:.2f}{around}"
