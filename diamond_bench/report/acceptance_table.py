"""The tables of an acceptance, for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diamond_bench.profiling.acceptance import Finding, Outcome
from diamond_bench.report.profile_table import amount

if TYPE_CHECKING:
    from rich.table import Table


def parts_table(outcomes: Sequence[Outcome]) -> "Table":
    """One row per part: how it ended, its seconds, and the last line of its messages if it is not done."""
    shown = _table("part", "ended", "seconds", "message")
    for outcome in outcomes:
        last = (outcome.output.splitlines() or [""])[-1]
        _add(shown, outcome.part.name, outcome.status, f"{outcome.seconds:.0f} of {outcome.part.seconds:.0f}", last)
    return shown


def findings_table(findings: Sequence[Finding]) -> "Table":
    """One row per number, with its goal if it has one."""
    shown = _table("what", "value", "goal", "met")
    for found in findings:
        met = "" if found.met is None else "yes" if found.met else "no"
        _add(shown, found.what, _amount(found.value, found), "" if found.goal is None else _amount(found.goal, found), met)
    return shown


def _amount(value: float, found: Finding) -> str:
    return f"{value:.3g} {found.unit}".strip() if found.unit in ("", "h") else amount(value, found.unit)


def _table(*heads: str) -> "Table":
    from rich.table import Table

    return Table(*heads, box=None, header_style="bold", pad_edge=False)


def _add(table: "Table", *cells: str) -> None:
    from rich.markup import escape

    table.add_row(*map(escape, cells))
