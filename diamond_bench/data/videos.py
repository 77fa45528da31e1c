"""The user's own videos, each with a CSV file of the same name that holds its actions (`action_tables`).

ffmpeg decodes a video from its beginning, one frame at a time, in a process of its own. So memory holds an episode at its stored size and
one frame of the video. ffmpeg is only allowed to read files in the formats of `foreign.VIDEOS`, because others can name files and addresses
to read from.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from diamond_bench.data.action_tables import ActionTable, read_table
from diamond_bench.data.foreign import MAX_SIDE, VIDEOS, own_files
from diamond_bench.errors import UserError, nearest
from diamond_bench.reading import open_file
from diamond_bench.spaces import ActionSpec

_INPUT = ["-protocol_whitelist", "file", "-format_whitelist", "mov,matroska,avi"]
_OUTPUT = ["-map", "0:v:0", "-fps_mode", "passthrough"]
"""Each frame once. By default, ffmpeg repeats and drops frames to keep an even rate."""
_RATE_TOLERANCE = 0.005
"""ffmpeg prints 23.98 for 23.976 frames per second."""


def lengths(folder: Path) -> list[int]:
    """Frames of each video, from the tables of actions. Raises UserError for a table that is damaged, or not like the first one."""
    _, tables = pairs(folder)
    first = read_table(tables[0]).actions
    return [len(fitting(table, first, tables[0]).rows) for table in tables]


def read_video(path: Path, rate: float | None = None) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames (h, w, 3) RGB of a video.

    Raises UserError if it cannot be decoded, is too large, or has another rate than `rate` frames per second (None: any rate).
    """
    try:
        os.close(open_file(path))
        video = imageio_ffmpeg.read_frames(str(path), input_params=list(_INPUT), output_params=list(_OUTPUT))
        try:
            about = next(video)
            width, height = about["size"]
            if not 1 <= min(width, height) <= max(width, height) <= MAX_SIDE:
                raise UserError(f"{path}: its frames are {height} x {width}; expected sides of at most {MAX_SIDE}")
            if rate is not None and abs(about["fps"] - rate) > _RATE_TOLERANCE * rate:
                raise UserError(f"{path}: it has {about['fps']:g} frames per second, but its actions have {rate:g} rows per second")
            for data in video:
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        finally:
            video.close()
    except (OSError, RuntimeError, KeyError, StopIteration) as error:
        last = [line.strip() for line in str(getattr(error, "strerror", None) or error).splitlines() if line.strip()][-1:]
        raise UserError(f"{path}: cannot be decoded as {', '.join(VIDEOS)} ({''.join(last)[:300]})") from None


def pairs(folder: Path) -> tuple[list[Path], list[Path]]:
    """The videos of a folder, and the table of each. Raises UserError for a video without a table."""
    files, tables = own_files(folder, VIDEOS), own_files(folder, (".csv",))
    for path in files:
        if path.with_suffix(".csv") not in tables:
            names = [table.relative_to(folder).as_posix() for table in tables]
            wanted = path.with_suffix(".csv").relative_to(folder).as_posix()
            near = nearest(wanted, names) if names else "the folder has no CSV file"
            raise UserError(f"{path}: its actions {wanted} are missing ({near})")
    return files, [path.with_suffix(".csv") for path in files]


def fitting(path: Path, actions: ActionSpec, first: Path) -> ActionTable:
    """Reads a table whose columns must be those of the table `first`. Raises UserError."""
    table = read_table(path)
    if table.actions != actions:
        raise UserError(f"{path}: its actions are {table.actions} {table.actions.names}, but {first.name} has {actions} {actions.names}")
    return table
