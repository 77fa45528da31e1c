"""The profile of several concurrent runs on one device, for people and for programs, from the stored result of its job."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diamond_bench.store.artifacts import Store, StoredResult
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import Profile

if TYPE_CHECKING:
    from rich.table import Table


def packing_records(store: Store, ref: JobRef) -> list[dict[str, Any]]:
    """One record per line of a finished profile, with the fields of `profiling.lines.Line` (`other` is one run alone) and a description of
    the profile."""
    spec, result = store.spec(ref), store.result(ref)
    config: Profile = spec.config
    about = {
        "job": ref.id,
        "device": config.device_name,
        "asked": config.executed,
        "scale": config.scale,
        "game": config.training.game,
        "mps": result.info["mps"],
        "packed": result.info["packed"],
        "notes": result.info["notes"],
    }
    return [{**about, **line} for line in result.info["lines"]]


def packing_table(result: StoredResult) -> "Table":
    """The lines of a profile: several concurrent runs, one run alone, and their ratio."""
    from rich.table import Table

    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("what")
    for head in ("median", "quartiles", "one alone", "times as much"):
        shown.add_column(head, justify="right", no_wrap=True)
    for line in result.info["lines"]:
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f} ({line['ratio_low']:.2f} to {line['ratio_high']:.2f})"
        alone = "" if line["other"] is None else _amount(line["other"], line["unit"])
        shown.add_row("  " * line["level"] + line["what"], _amount(line["median"], line["unit"]), _range(line), alone, ratio)
    return shown


def _amount(value: float, unit: str) -> str:
    return f"{value / 1e9:.3g} GB" if unit == "bytes" else f"{value:.3g} {unit}"


def _range(line: Mapping[str, Any]) -> str:
    return "" if line["low"] is None else f"{_amount(line['low'], line['unit'])} to {_amount(line['high'], line['unit'])}"
