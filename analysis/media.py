"""Videos that show imagined and true frames next to each other."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

GAP = 2
"""Black pixels between two frames, before upscaling."""
_QUALITIES = (20, 28, 36)
"""H.264's constant rate factors, from good to coarse."""
_HOPELESS = 6
_MIN_FRAMES = 8


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, with the same suffix. It is renamed to `path` if the block succeeds, and otherwise
    removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def side_by_side(true: Sequence[Frames], imagined: Sequence[Frames], upscale: int = 4) -> Frames:
    """One video of trajectory pairs: one row per pair, with the true one on the left and the imagined one on the right.

    `true` and `imagined`: as many arrays uint8 (t, h, w, 3), all of one shape -> uint8 (t, H, W, 3), upscaled by nearest neighbour. Raises
    ValueError for other shapes or dtypes.
    """
    if len(true) != len(imagined) or not true:
        raise ValueError(f"expected as many true as imagined trajectories, and one at least: got {len(true)} and {len(imagined)}")
    for frames in (*true, *imagined):
        _check(frames)
        if frames.shape != true[0].shape:
            raise ValueError(f"trajectories differ in shape: {frames.shape} against {true[0].shape}")
    return grid(list(zip(true, imagined, strict=True)), upscale)


def grid(rows: Sequence[Sequence[Frames]], upscale: int = 4) -> Frames:
    """Pictures or videos in rows, with `GAP` black pixels between them. A row with fewer pictures than the first one is black at its right.

    `rows`: arrays uint8 (..., h, w, 3), all of one shape -> uint8 (..., H, W, 3), upscaled by nearest neighbour.
    """
    *t, h, w, _ = rows[0][0].shape
    canvas = np.zeros((*t, len(rows) * (h + GAP) - GAP, len(rows[0]) * (w + GAP) - GAP, 3), dtype=np.uint8)
    for top, row in enumerate(rows):
        for left, frames in enumerate(row):
            canvas[..., top * (h + GAP) :, left * (w + GAP) :, :][..., :h, :w, :] = frames
    return canvas.repeat(upscale, axis=-3).repeat(upscale, axis=-2)


def write_video(frames: Frames | Iterable[Frames], path: Path, fps: float = 15.0) -> Path:
    """Writes uint8 frames (t, h, w, 3) to `path`: .mp4 (H.264; an odd side gets one black line) or .gif. Equal frames give equal bytes.

    `frames`: an array, or any number of pictures (h, w, 3). An .mp4 takes them one by one and never holds them all.

    Raises ValueError for another shape, dtype or suffix.
    """
    if isinstance(frames, np.ndarray):
        _check(frames)
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"{path}: a video ends in .mp4 or .gif")
    with replacing(path) as temporary:
        (_write_mp4 if path.suffix == ".mp4" else _write_gif)(frames, temporary, fps)
    return path


@dataclass(frozen=True)
class Clip:
    """A video small enough to lie inside a page."""

    data: bytes
    """MP4 (H.264)."""
    frames: int
    """Number of the given frames that it shows, from the first on."""


def small_clip(frames: Frames, most_bytes: int, fps: float = 15.0) -> Clip | None:
    """uint8 frames (t, h, w, 3) as an MP4 of at most `most_bytes`: the best quality that fits, then fewer frames. None if eight frames at
    the lowest quality are still too large. Equal frames give equal bytes.

    Raises ValueError for another shape or dtype.
    """
    _check(frames)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        shown = len(frames)
        while True:
            for quality in _QUALITIES:
                _write_mp4(frames[:shown], path, fps, quality)
                size = path.stat().st_size
                if size <= most_bytes:
                    return Clip(path.read_bytes(), shown)
                if size > _HOPELESS * most_bytes:  # no quality makes up for that, and each attempt costs seconds
                    break
            if shown <= _MIN_FRAMES:
                return None
            shown = max(_MIN_FRAMES, shown // 2)


def _write_mp4(frames: Iterable[Frames], path: Path, fps: float, quality: int = 16) -> None:
    import imageio_ffmpeg

    reproducible = ["-crf", str(quality), "-preset", "medium", "-threads", "1", "-map_metadata", "-1", "-fflags", "+bitexact"]
    writer = None
    try:
        for frame in frames:
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)))
            if writer is None:
                size = (even.shape[1], even.shape[0])
                writer = imageio_ffmpeg.write_frames(
                    str(path), size, fps=fps, codec="libx264", quality=None, macro_block_size=2, output_params=reproducible
                )
                writer.send(None)
            writer.send(np.ascontiguousarray(even))
    finally:
        if writer is not None:
            writer.close()


def _write_gif(frames: Iterable[Frames], path: Path, fps: float) -> None:
    import imageio.v3

    imageio.v3.imwrite(path, np.stack(list(frames)), plugin="pillow", duration=1000.0 / fps, loop=0)


def _check(frames: Frames) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"expected uint8 frames (t, h, w, 3), got {frames.dtype} {frames.shape}")
