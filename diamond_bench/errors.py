"""The one exception a person sees as a message instead of a traceback."""

import difflib
from collections.abc import Iterable

MAX_CHARACTERS = 2000
"""Longest message; a longer one loses its middle, where an over-long value stands."""


class UserError(Exception):
    """A mistake the user can mend. The command line prints the message alone, at most MAX_CHARACTERS long, and exits with code 2."""

    def __init__(self, message: object = ""):
        super().__init__(shortened(str(message), MAX_CHARACTERS))


def shortened(text: str, most: int) -> str:
    """The text, or its first and last characters around the number of those left out, where it has more than `most`."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} ... ({len(text) - most:,} characters left out) ... {text[-most // 3 :]}"


def nearest(word: str, candidates: Iterable[str], most: int = 3, within: str = "") -> str:
    """A clause naming what `word` may have meant: `did you mean a, b?`, or all valid names where nothing is near.

    `within` is written before each name that is offered.
    """
    word = shortened(str(word), 200)  # the comparison takes quadratic time
    names = sorted({str(name) for name in candidates})
    if not names:
        return "there are none"
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold(), list(folded), n=most, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(within + folded[name] for name in close)}?"
    shown = ", ".join(names[:30])
    return f"valid: {shown}{', ...' if len(names) > 30 else ''}"
