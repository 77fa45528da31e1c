"""Output to a terminal or a screen: control characters in data are escaped, and output that cannot be written gives one message."""

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment

from diamond_bench.errors import UserError

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters except newline and tab, and the characters that change the direction of text."""


def visible(text: str) -> str:
    """The text with control characters and changes of direction as escapes, such as \\x1b. Newlines and tabs stay."""
    return _HIDDEN.sub(lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text)


class SafeConsole(Console):
    """A rich console that prints every text as `visible` does, without replacing `:name:` by an emoji. Outside a terminal no line ends in
    spaces. Raises UserError if its file cannot be written."""

    def __init__(self, **options: Any):
        super().__init__(**{"emoji": False, **options})

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """The segments of the output, with styles separate from texts."""
        found = (
            segment if segment.control else Segment(visible(segment.text), segment.style) for segment in super().render(renderable, options)
        )
        yield from found if self.is_terminal else _without_padding(found)

    def write(self, text: str) -> None:
        """Writes a text as `visible` does, without rich's markup, wrapping and styles."""
        with _writing():
            self.file.write(visible(text))
            self.file.flush()

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as rich does."""
        with _writing():
            super().print(*objects, **options)


def _without_padding(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The segments without the spaces before a line's end, with which tables fill their last column."""
    held: list[Segment] = []
    for segment in segments:
        text = re.sub(" +(?=\n)", "", segment.text)
        shown = text.rstrip(" ")
        if shown:
            yield from () if shown.startswith("\n") else held
            held = []
            yield Segment(shown, segment.style, segment.control)
        if len(shown) < len(text):
            held.append(Segment(text[len(shown) :], segment.style))
    yield from held


def has_display() -> bool:
    """Whether a browser can show a window to the user."""
    return bool(os.environ.get("BROWSER")) or sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader of the output closed it
        raise
    except OSError as error:
        raise UserError(f"the output cannot be written: {error.strerror or error}") from None
