"""Pictures and clips inside the page as data URIs, within the page's limit of bytes."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diamond_bench.report.drawing import stored_file
from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.figures import finished_points, groups_of, main_lines, picture_of, shared_seed
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import Point, SavedPlan

CLIP_BYTES = 1_500_000
"""Most bytes of one clip (2 MB as a data URI)."""
CLIP_FRAMES = 150
"""Most frames of one clip: ten seconds."""
MAX_CLIPS = 24
_UPSCALE = 3
_BESIDES = 2_000
"""Bytes reserved for the text around a picture."""


@dataclass
class Budget:
    """The number of bytes that remain for pictures."""

    left: int

    def data_uri(self, data: bytes, mime: str) -> str | None:
        """The data as a URI; None if it does not fit."""
        uri = f"data:{mime};base64,{base64.b64encode(data).decode()}"
        if len(uri) + _BESIDES > self.left:
            return None
        self.left -= len(uri) + _BESIDES
        return uri


@dataclass(frozen=True)
class ClipShown:
    """A looping clip of one variant: the true trajectory on the left, the imagined one on the right."""

    name: str
    """Game and variant, as shown on the page."""
    data: bytes
    words: str
    """What the clip shows, apart from the name."""


def small_picture(png: Path, below: int = 0) -> tuple[bytes, str]:
    """A PNG's pixels without the `below` lowest rows, losslessly compressed, and their MIME type. These rows hold the caption, which the
    page shows as text."""
    from PIL import Image

    with Image.open(png) as picture:
        found = picture.convert("RGB").crop((0, 0, picture.width, max(1, picture.height - below)))
        webp, plain = io.BytesIO(), io.BytesIO()
        found.save(webp, "WEBP", lossless=True, quality=20, method=2)
        found.save(plain, "PNG")
    packed, whole = webp.getvalue(), plain.getvalue()
    return (packed, "image/webp") if len(packed) < len(whole) else (whole, "image/png")


def clips(plan: SavedPlan, store: Store, facts: StudyFacts) -> Iterator[ClipShown | str]:
    """A clip for each row of the trajectory grids (the first trajectory kept) or, for agents, for each variant and game (the first
    episode). A clip that is left out has a sentence instead."""
    from analysis.media import side_by_side, small_clip

    yield from _episodes(plan, store, facts)

    lines = [
        (game, group, line, shared_seed(members))
        for game, points in finished_points(plan, facts.done).items()
        for group in groups_of(points)
        for members in [main_lines(plan, points, group)]
        for line in members
    ]
    for game, group, line, seed in lines[:MAX_CLIPS]:
        kept = picture_of(line, store, seed)
        shown = slice(0, CLIP_FRAMES)
        clip = small_clip(side_by_side([kept["true"][0][shown]], [kept["imagined"][0][shown]], _UPSCALE), CLIP_BYTES)
        title = ", ".join(part for part in (group, *line.words) if part)
        if clip is None:
            yield f"The clip of {game}, {title} is left out: it would be larger than {CLIP_BYTES / 1e6:g} MB."
        else:
            total, own = len(kept["true"][0]), line.points[0].seed if seed is None else seed
            length = f"{clip.frames} frames" if clip.frames == total else f"the first {clip.frames} of {total} frames"
            yield ClipShown(f"{game}, {title}" if title else game, clip.data, f"seed {own}: {length}")
    if len(lines) > MAX_CLIPS:
        yield f"{len(lines) - MAX_CLIPS} more clips are left out; every evaluation keeps its own video in media/rollout.mp4."


def _episodes(plan: SavedPlan, store: Store, facts: StudyFacts) -> Iterator[ClipShown | str]:
    """The film of the first episode that evaluations of agents kept (evaluation.video), for each game and variant from the first seed that
    has one."""
    films: dict[tuple[str, str], tuple[Point, Path]] = {}
    for point in plan.points:
        film = store.folder(point.jobs["evaluation"]) / "media" / "episode.mp4"
        if point.jobs["evaluation"].kind == "evaluate_agent" and point.jobs["evaluation"] in facts.done and film.is_file():
            films.setdefault((point.game, point.variant), (point, film))
    for (game, variant), (point, film) in list(films.items())[:MAX_CLIPS]:
        if film.stat().st_size > CLIP_BYTES:
            yield f"The clip of {game}, {variant} is left out: it is larger than {CLIP_BYTES / 1e6:g} MB. It is {film}."
        else:
            yield ClipShown(
                f"{game}, {variant}",
                stored_file(store, point.jobs["evaluation"], "media/episode.mp4"),
                f"seed {point.seed}: the beginning of its first final episode",
            )
    if len(films) > MAX_CLIPS:
        yield f"{len(films) - MAX_CLIPS} more clips are left out; evaluations keep their own in media/episode.mp4."
