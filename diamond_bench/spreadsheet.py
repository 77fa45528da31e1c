"""Protection of texts in CSV files from being read as formulas by spreadsheets.

A text that begins with =, +, -, @, a tab, a carriage return, a newline or an apostrophe is prefixed with an apostrophe, as guides for
spreadsheets advise. Numbers and single characters are unchanged. A program that reads such a file removes one apostrophe from the beginning
of each text that has one: `text.removeprefix("'")`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FIRST = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def with_mark(value: Any) -> Any:
    """The cell to write: a text that could pass for a formula gets an apostrophe, and anything else is unchanged."""
    if not isinstance(value, str) or not value.startswith(_FIRST) or (len(value) == 1 and value != "'"):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def csv_text(frame: "pd.DataFrame", **options: Any) -> str:
    """A table as CSV without its index, with texts and column names protected. `options` are those of pandas' to_csv."""
    marked = frame.rename(columns=with_mark)
    for place, kind in enumerate(marked.dtypes):
        if kind.kind not in "biufcM":
            marked.isetitem(place, marked.iloc[:, place].astype(object).map(with_mark).array)
    text: str = marked.to_csv(index=False, **options)
    return text
