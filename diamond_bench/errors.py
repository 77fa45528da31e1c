"""The exception that the user sees as a message without a traceback."""

import difflib
from collections.abc import Iterable, Sequence

MAX_CHARACTERS = 2000
"""Maximum length of a message. A longer one loses its middle, which contains the overlong value."""


class UserError(Exception):
    """A mistake that the user can correct. The command line prints only the message, of at most MAX_CHARACTERS, and exits with code 2."""

    def __init__(self, message: object = "", *, keys: Iterable[str] = ()):
        """`keys`: the settings that the message names, the refused one first, where code that catches the error needs them."""
        super().__init__(shortened(str(message), MAX_CHARACTERS))
        self.keys = tuple(keys)


def shortened(text: str, most: int) -> str:
    """The text, or its first and last characters around the number of omitted ones if it has more than `most`."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} ... ({len(text) - most:,} characters left out) ... {text[-most // 3 :]}"


def nearest(word: str, candidates: Iterable[str], most: int = 3, within: str = "") -> str:
    """A clause with the names that `word` may have meant: `did you mean a, b?`, or all valid names if none is near.

    `within` is written before each suggested name.
    """
    word = shortened(str(word), 200)  # the comparison takes quadratic time
    names = sorted({str(name) for name in candidates})
    if not names:
        return "there are none"
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold(), list(folded), n=most, cutoff=0.6)
    if close:
        return f"did you mean {joined([within + folded[name] for name in close])}?"
    return f"valid: {joined([*names[:30], *(['...'] if len(names) > 30 else [])])}"


def joined(names: Sequence[str]) -> str:
    """The names with commas between them, or with semicolons if a name contains a comma."""
    return ("; " if any("," in name for name in names) else ", ").join(names)


def listed(names: Sequence[str]) -> str:
    """The names as a list in a sentence: `a`, `a and b`, or `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(number: int, one: str, several: str) -> str:
    """The number with the right form of a noun."""
    return f"{number} {one if number == 1 else several}"
