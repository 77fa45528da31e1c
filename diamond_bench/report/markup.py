"""Builds HTML: every text is escaped unless it is marked as markup, and every table has a caption and headers."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from diamond_bench.terminal import visible

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS, MAX_COLUMNS, MAX_CHARACTERS = 300, 24, 160
"""Most rows and columns of a table on a page, and characters of a cell. The CSV file in the same folder has all rows."""

_WORDY, _LONG = 16, 40
"""Cells with at least this many characters are given more width."""
_VOID = ("img", "meta", "br", "link")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Html(str):
    """Markup, which is not escaped again."""


def escaped(text: Any) -> Html:
    """A text escaped for an element or an attribute, with hidden characters (see `visible`) as escapes. Markup is unchanged."""
    return text if isinstance(text, Html) else Html(html.escape(visible(_SURROGATE.sub("�", str(text)))))


def joined(parts: Iterable[Any], by: str = "") -> Html:
    """Joins parts."""
    return Html(by.join(escaped(part) for part in parts))


def el(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. `class_` means class and aria_label means aria-label. True makes an attribute without a value; None omits the
    attribute."""
    written = []
    for key, value in attributes.items():
        shown = key.rstrip("_").replace("_", "-")
        if value is not None and value is not False:
            written.append(f" {shown}" if value is True else f' {shown}="{escaped(value)}"')
    start = f"<{name}{''.join(written)}>"
    return Html(start if name in _VOID else f"{start}{joined(children)}</{name}>")


def table(frame: "pd.DataFrame", caption: str, numeric: Sequence[str] = (), rest: str = "") -> Html:
    """A DataFrame as a table that scrolls horizontally. Its first column names the rows. `numeric` columns are aligned to the right.

    `rest` names the place of the rows that are not shown.
    """
    columns = list(frame.columns)[:MAX_COLUMNS]
    head = el("tr", *(el("th", column, scope="col", class_="number" if column in numeric else None) for column in columns))
    body = [
        el("tr", *(_cell(cell, i == 0, column in numeric) for i, (column, cell) in enumerate(zip(columns, line, strict=True))))
        for line in frame[columns].head(MAX_ROWS).itertuples(index=False, name=None)
    ]
    words = [caption]
    if len(frame) > MAX_ROWS or len(frame.columns) > MAX_COLUMNS:
        where = f"; all of it: {rest}" if rest else ""
        words.append(f"Shown: {len(body)} of {len(frame)} rows, {len(columns)} of {len(frame.columns)} columns{where}.")
    whole = el("table", el("thead", head), el("tbody", *body), aria_label=caption)
    scrolled = el("div", whole, class_="scroll", role="region", tabindex="0", aria_label=f"Table: {caption}")
    return el("figure", el("figcaption", " ".join(words)), scrolled, class_="table")  # a caption inside would scroll out of sight


def _cell(value: Any, heads: bool, number: bool) -> Html:
    text = value if isinstance(value, Html) else str(value)
    if not isinstance(text, Html) and len(text) > MAX_CHARACTERS:
        text = f"{text[: MAX_CHARACTERS - 1]}…"
    length = 0 if isinstance(text, Html) else len(text)
    width = "long" if length > _LONG else "wordy" if length > _WORDY else ""
    looks = [name for name in ("number" if number else "", width) if name]
    return el("th" if heads else "td", text, scope="row" if heads else None, class_=" ".join(looks) or None)


def details(summary: str, *children: Any) -> Html:
    """A collapsed section."""
    return el("details", el("summary", summary), *children)


def items(lines: Iterable[Any], **attributes: Any) -> Html:
    """A list."""
    return el("ul", *(el("li", line) for line in lines), **attributes)
