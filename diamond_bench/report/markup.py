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

_LINE_CHARACTERS = 118
"""Characters of a table's line on a page 1280 px wide. A wider table is split, and its first columns are repeated."""
_NARROW, _MEDIUM = 34, 78
"""Tables with longer lines become cards, a box per row, on phones and on tablets."""
_GAP, _LONGEST_WORD, _WRAPPED = 2.4, 24, 20
"""Characters: the space around a cell, the longest word that is not broken, and the least width of a cell with a sentence."""
_VOID = ("img", "meta", "br", "link", "input", "wbr")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG = re.compile("<[^>]*>")
_WORD = re.compile(r"[^\s._/]+[._/]?|[._/]")
"""What `broken` keeps together: settings and paths may break after a dot, an underscore or a slash."""


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


def table(frame: "pd.DataFrame", caption: str, numeric: Sequence[str] = (), rest: str = "", keys: int = 1) -> Html:
    """A DataFrame as a table that never scrolls horizontally. `numeric` columns are aligned to the right.

    The first `keys` columns name the rows. A table that is wider than the page becomes several, each of which begins with these columns.
    On narrow screens each row becomes a card. `rest` names the place of the rows that are not shown.
    """
    columns = list(frame.columns)[:MAX_COLUMNS]
    rows = [[_text(cell) for cell in line] for line in frame[columns].head(MAX_ROWS).itertuples(index=False, name=None)]
    wide = [_width(str(column), [row[i] for row in rows], column in numeric) for i, column in enumerate(columns)]
    words = [caption]
    if len(frame) > MAX_ROWS or len(frame.columns) > MAX_COLUMNS:
        where = f"; all of it: {rest}" if rest else ""
        words.append(f"Shown: {len(rows)} of {len(frame)} rows, {len(columns)} of {len(frame.columns)} columns{where}.")
    parts = _parts(wide, keys)
    shown = []
    for number, part in enumerate(parts, start=1):
        head = el("tr", *(el("th", broken(str(columns[i])), scope="col", class_=_look(columns[i] in numeric)) for i in part))
        kept = [row for row in rows if len(parts) == 1 or any(row[i] for i in part[keys:])]
        body = [el("tr", *(_cell(row[i], str(columns[i]), i < keys, columns[i] in numeric) for i in part)) for row in kept]
        line = sum(wide[i] for i in part)
        size = "narrow" if line <= _NARROW else "medium" if line <= _MEDIUM else "wide"
        label = caption if len(parts) == 1 else f"{caption} (part {number} of {len(parts)})"
        shown.append(el("table", el("thead", head), el("tbody", *body), aria_label=label, class_=size))
    return el("figure", el("figcaption", " ".join(words)), *shown, class_="table")


def _parts(wide: Sequence[float], keys: int) -> list[list[int]]:
    """The columns of each table that a wide one is split into, by their numbers."""
    first = list(range(keys))
    parts, used = [[*first]], sum(wide[:keys])
    for i in range(keys, len(wide)):
        if used + wide[i] > _LINE_CHARACTERS and len(parts[-1]) > keys:
            parts.append([*first])
            used = sum(wide[:keys])
        parts[-1].append(i)
        used += wide[i]
    return parts


def _text(value: Any) -> Html | str:
    text = value if isinstance(value, Html) else str(value)
    return text if isinstance(text, Html) or len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _width(head: str, cells: Sequence[str], number: bool) -> float:
    """About the least number of characters that a column needs without breaking words. Numbers are not wrapped at all."""
    lines = {line for cell in cells for line in (_TAG.split(cell) if isinstance(cell, Html) else (cell,))}
    words = [len(word) for text in (head, *(() if number else lines)) for word in _WORD.findall(text)]
    longest = max((len(line) for line in lines), default=0)
    return _GAP + max(min(max(words, default=1), _LONGEST_WORD), longest if number else min(longest, _WRAPPED))


def _look(number: bool) -> str | None:
    return "number" if number else None


def _cell(text: str, column: str, heads: bool, number: bool) -> Html:
    """A cell. `data-column` names its column where each row is a card."""
    name = "th" if heads else "td"
    inside = el("span", text) if isinstance(text, Html) and text else broken(text)
    return el(name, inside, scope="row" if heads else None, class_=_look(number), data_column=column)


def broken(text: str) -> Html:
    """A text that may break within long names of settings and files."""
    return joined(joined(_WORD.findall(word), "<wbr>") if len(word) > 8 else word for word in re.split(r"(\s+)", text))


def marked(text: str) -> Html:
    """A text whose parts between backticks are code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without a partner stays as it is
        parts[-2:] = ["`".join(parts[-2:])]
    return joined(el("code", part) if place % 2 else part for place, part in enumerate(parts))


def details(summary: str, *children: Any) -> Html:
    """A collapsed section."""
    return el("details", el("summary", summary), *children)


def items(lines: Iterable[Any], **attributes: Any) -> Html:
    """A list."""
    return el("ul", *(el("li", line) for line in lines), **attributes)
