"""A session as a video: all lanes next to each other with their names, and how far they are apart."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from analysis.media import GAP, grid
from diamond_bench.play.lanes import Frame, Lane, Real, absolute_difference
from diamond_bench.play.session import Moment

_CAPTION, _FONT, _INK = 22, 14, (235, 235, 235)
"""Height of a line with names in pixels, the size of its letters, and their colour."""
DIFFERENCE, _TITLE = 4, "difference x 4"
"""The factor that makes a difference visible, on the page too (`.of-difference` in play.css), and the name of the picture."""
_EMPTY = 48
"""The grey of a place without a picture."""
_WIDEST, _UPSCALE = 1280, 5
"""Largest width of a video in pixels, unless single pixels are wider, and the largest scale of a frame."""


def pictures(lanes: Sequence[Lane], path: Iterable[Moment], steps: bool = False) -> Iterator[NDArray[np.uint8]]:
    """The pictures (H, W, 3) of a video, one per moment. `steps`: with the number of the step above each.

    The lanes stand in one row. A difference is the absolute one from the real game, or from the first of two lanes if none is real. It is
    four times brighter, and values above 255 are 255. A single difference stands at the end of the row, and several stand in a second row,
    each below its lane.
    """
    names = [lane.name for lane in lanes]
    reference = next((number for number, lane in enumerate(lanes) if isinstance(lane.dynamics, Real)), 0 if len(lanes) == 2 else None)
    others = [] if reference is None else [number for number in range(len(lanes)) if number != reference]
    titles = [[*names, _TITLE]] if len(others) == 1 else [names, [_TITLE * (number in others) for number in range(len(names))]]
    for moment in path:
        frames = [shown.frame for shown in moment.shown]
        apart = {number: _visible(absolute_difference(frames[number], frames[reference])) for number in others if reference is not None}
        if len(others) == 1:
            rows = [[*frames, *apart.values()]]
        else:
            rows = [frames, [apart.get(number, np.full_like(frames[0], _EMPTY)) for number in range(len(frames))]][: 2 if others else 1]
        picture = _captioned(rows, titles)
        if steps:
            picture = np.concatenate([_caption((f"step {moment.step}",), picture.shape[1], picture.shape[1]), picture])
        yield picture


def _visible(difference: Frame) -> Frame:
    return (difference.astype(np.uint16) * DIFFERENCE).clip(max=255).astype(np.uint8)


def _captioned(rows: Sequence[Sequence[Frame]], titles: Sequence[Sequence[str]]) -> NDArray[np.uint8]:
    width = rows[0][0].shape[2] + GAP
    upscale = max(1, min(_UPSCALE, _WIDEST // (width * len(rows[0]))))
    parts: list[NDArray[np.uint8]] = []
    for row, names in zip(rows, titles, strict=False):
        picture = grid([[frame.transpose(1, 2, 0) for frame in row]], upscale)
        parts += [_caption(tuple(names), width * upscale, picture.shape[1]), picture]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=16)
def _caption(names: tuple[str, ...], step: int, width: int) -> NDArray[np.uint8]:
    """A line of names, one every `step` pixels. A name that is too long is cut."""
    image, font = Image.new("RGB", (width, _CAPTION)), ImageFont.load_default(_FONT)
    drawn = ImageDraw.Draw(image)
    for number, name in enumerate(names):
        shown = name
        while shown and drawn.textlength(shown, font) > step - 8:
            name = name[:-1]
            shown = f"{name}…" if name else ""
        drawn.text((number * step + 3, 2), shown, fill=_INK, font=font)
    return np.asarray(image, np.uint8)
