"""The one exception a person sees as a message instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend. The command line prints the message alone and exits with code 2."""


def nearest(word: str, candidates: Iterable[str], most: int = 3, within: str = "") -> str:
    """A clause naming what `word` may have meant: `did you mean a, b?`, or all valid names where nothing is near.

    `within` is written before each name that is offered.
    """
    names = sorted({str(name) for name in candidates})
    if not names:
        return "there are none"
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(str(word).casefold(), list(folded), n=most, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(within + folded[name] for name in close)}?"
    shown = ", ".join(names[:30])
    return f"valid: {shown}{', ...' if len(names) > 30 else ''}"
