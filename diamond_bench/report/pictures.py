"""Pictures and clips inside the page: as data URIs, never more bytes than the page may have."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.figures import finished_points, groups_of, main_lines, picture_of, shared_seed
from diamond_bench.studies.plan import SavedPlan
from diamond_bench.studies.store import Store

CLIP_BYTES = 1_500_000
"""Most bytes of one clip (2 MB as a data URI)."""
CLIP_FRAMES = 150
"""Most frames of one clip: ten seconds."""
MOST_CLIPS = 24
_UPSCALE = 3
_BESIDES = 2_000
"""Bytes set aside for the words around a picture."""


@dataclass
class Budget:
    """The bytes that pictures may still take."""

    left: int

    def data_uri(self, data: bytes, mime: str) -> str | None:
        """The data as a URI, or None where it would not fit."""
        uri = f"data:{mime};base64,{base64.b64encode(data).decode()}"
        if len(uri) + _BESIDES > self.left:
            return None
        self.left -= len(uri) + _BESIDES
        return uri


@dataclass(frozen=True)
class ClipShown:
    """A looping clip of one variant: the true trajectory on the left, the imagined one on the right."""

    game: str
    title: str
    data: bytes
    frames: int
    total: int
    seed: int


def small_picture(png: Path) -> tuple[bytes, str]:
    """A PNG's pixels in fewer bytes, without loss, and their MIME type."""
    from PIL import Image

    with Image.open(png) as picture:
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "WEBP", lossless=True, quality=20, method=2)
    packed, plain = buffer.getvalue(), png.read_bytes()
    return (packed, "image/webp") if len(packed) < len(plain) else (plain, "image/png")


def clips(plan: SavedPlan, store: Store, facts: StudyFacts) -> Iterator[ClipShown | str]:
    """A clip for each row of the trajectory grids (the first trajectory kept), or a sentence on one that is left out."""
    from analysis.media import side_by_side, small_clip

    lines = [
        (game, group, line, shared_seed(members))
        for game, points in finished_points(plan, facts.done).items()
        for group in groups_of(points)
        for members in [main_lines(plan, points, group)]
        for line in members
    ]
    for game, group, line, seed in lines[:MOST_CLIPS]:
        kept = picture_of(line, store, seed)
        shown = slice(0, CLIP_FRAMES)
        clip = small_clip(side_by_side([kept["true"][0][shown]], [kept["imagined"][0][shown]], _UPSCALE), CLIP_BYTES)
        title = ", ".join(part for part in (group, *line.words) if part)
        if clip is None:
            yield f"The clip of {game}, {title} is left out: it would be larger than {CLIP_BYTES / 1e6:g} MB."
        else:
            yield ClipShown(game, title, clip.data, clip.frames, len(kept["true"][0]), line.points[0].seed if seed is None else seed)
    if len(lines) > MOST_CLIPS:
        yield f"{len(lines) - MOST_CLIPS} more clips are left out; every evaluation keeps its own video in media/rollout.mp4."
