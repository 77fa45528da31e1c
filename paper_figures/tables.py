"""A table of the paper as cells with footnotes, and its three forms: CSV, Markdown, LaTeX."""

import csv
import io
import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from diamond_bench.report import latex
from diamond_bench.spreadsheet import with_mark

Value = float | int | str | None

MAX_ROWS = 46
"""Rows of one LaTeX tabular; a longer table goes on in another, so that it may break over pages."""


@dataclass(frozen=True)
class Cell:
    """One cell: the number a program reads, the text a person reads, and the footnotes that hang on it."""

    value: Value = None
    text: str = "—"
    bold: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """A column: what stands above it (lines apart by newlines), and its name in the CSV, which is the text where none is given."""

    text: str
    key: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the CSV."""
        return self.key or self.text.replace("\n", " ")


@dataclass(frozen=True)
class Table:
    """Heads, rows of as many cells, and notes of the whole table. A rule stands above the rows numbered in `rules`, and a heading across
    the table above those in `headings`. The CSV has no headings."""

    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    rules: frozenset[int] = field(default=frozenset())
    notes: tuple[str, ...] = ()
    headings: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.heads):
                raise ValueError(f"a row has {len(row)} cells for {len(self.heads)} columns: {row[0].text}")

    def footnotes(self) -> dict[str, str]:
        """Letter of every footnote that hangs on a head or cell, in the order of reading."""
        letters = _letters()
        found: dict[str, str] = {}
        hung = [*(head.notes for head in self.heads), *(cell.notes for row in self.rows for cell in row)]
        for note in itertools.chain.from_iterable(hung):
            if note not in found:
                found[note] = next(letters)
        return found

    def all_notes(self) -> list[str]:
        """Every footnote, those with a letter first: `a: ...`."""
        return [*(f"{letter}: {note}" for note, letter in self.footnotes().items()), *self.notes]


def number(value: float | int | None, digits: int = 3, bold: bool = False, notes: Sequence[str] = (), thousands: bool = False) -> Cell:
    """A number shown to so many digits after the point; none is a dash."""
    if value is None or value != value:
        return Cell(notes=tuple(notes))
    text = f"{value:,.{digits}f}" if thousands else f"{value:.{digits}f}"
    return Cell(value, text.replace("-", "−"), bold, tuple(notes))


def words(text: str, notes: Sequence[str] = ()) -> Cell:
    """A cell of text."""
    return Cell(text, text, False, tuple(notes))


def sentence(text: object) -> str:
    """A message as a footnote."""
    said = str(text).strip()
    return said if said.endswith((".", "?")) else f"{said}."


def best(cells: Sequence[Cell], compete: Sequence[bool], digits: int, highest: bool = True) -> list[Cell]:
    """The cells with the best of those that compete in bold, ties at the precision shown included."""
    shown = [round(float(cell.value), digits) if isinstance(cell.value, (int, float)) and c else None for cell, c in zip(cells, compete)]  # noqa: B905
    known = [value for value in shown if value is not None]
    top = (max if highest else min)(known, default=None)
    return [Cell(cell.value, cell.text, value is not None and value == top, cell.notes) for cell, value in zip(cells, shown, strict=True)]


def _letters() -> Iterator[str]:
    yield from string.ascii_lowercase
    yield from (a + b for a in string.ascii_lowercase for b in string.ascii_lowercase)


def to_csv(table: Table) -> bytes:
    """Numbers in full (12 significant digits), empty where there is none. Footnotes are in the other forms alone."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([with_mark(head.name) for head in table.heads])
    for row in table.rows:
        writer.writerow([_plain(cell.value) for cell in row])
    return out.getvalue().encode()


def _plain(value: Value) -> str:
    if value is None:
        return ""
    return f"{value:.12g}" if isinstance(value, float) else str(with_mark(value))


def to_markdown(table: Table) -> str:
    """The table with its footnotes below."""
    letters = table.footnotes()

    def shown(text: str, notes: Sequence[str], bold: bool = False) -> str:
        text = markdown_escape(text).replace("\n", "<br>")
        marks = ",".join(letters[note] for note in notes)
        return (f"**{text}**" if bold else text) + (f"<sup>{marks}</sup>" if marks else "")

    lines = [[shown(head.text, head.notes) for head in table.heads]]
    lines.append([" --- " if left else " ---: " for left in _left(table)])
    for i, row in enumerate(table.rows):
        if i in table.headings:
            lines.append([f"**{markdown_escape(table.headings[i])}**", *[""] * (len(row) - 1)])
        lines.append([shown(cell.text, cell.notes, cell.bold) for cell in row])
    notes = [f"- <sup>{letter}</sup> {markdown_escape(note)}" for note, letter in letters.items()]
    notes += [f"- {markdown_escape(note)}" for note in table.notes]
    body = "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)
    return body + ("\n\n" + "\n".join(notes) if notes else "") + "\n"


def markdown_escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character if character not in "<>" else {"<": "&lt;", ">": "&gt;"}[character])
    return text


def _left(table: Table) -> list[bool]:
    """Which columns hold text, and so stand to the left."""
    return [all(not isinstance(row[i].value, (int, float)) for row in table.rows) for i in range(len(table.heads))]


def to_latex(table: Table) -> str:
    """A booktabs tabular (needs booktabs and graphicx), shrunk where it is wider than the line, with its footnotes below."""
    letters = table.footnotes()

    def shown(text: str, notes: Sequence[str], bold: bool = False) -> str:
        lines = [latex.escape(line) for line in text.split("\n")]
        body = lines[0] if len(lines) == 1 else "\\shortstack{" + "\\\\".join(lines) + "}"
        marks = ",".join(letters[note] for note in notes)
        return (f"\\textbf{{{body}}}" if bold else body) + (f"\\textsuperscript{{{marks}}}" if marks else "")

    head = " & ".join(shown(head.text, head.notes) for head in table.heads) + " \\\\"
    columns = "".join("l" if left else "r" for left in _left(table))
    parts = []
    for start in range(0, max(1, len(table.rows)), MAX_ROWS):
        lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", head, "\\midrule"]
        for i, row in enumerate(table.rows[start : start + MAX_ROWS], start):
            lines += ["\\midrule"] if i in table.rules and i > start else []
            if i in table.headings:
                heading = latex.escape(table.headings[i])
                lines.append(f"\\multicolumn{{{len(row)}}}{{l}}{{\\textit{{{heading}}}}} \\\\")
            lines.append(" & ".join(shown(cell.text, cell.notes, cell.bold) for cell in row) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}"]
        parts.append(latex.fitted("\n".join(lines)))
    notes = [f"\\textsuperscript{{{letter}}}\\,{latex.escape(note)}" for note, letter in letters.items()]
    return "\n\n\\medskip\n".join(parts) + "\n" + latex.notes([*notes, *(latex.escape(note) for note in table.notes)])
