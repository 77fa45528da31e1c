"""The dataset `freedoom_demos`: people who play Freedoom, from the demos inside its WADs.

Frame t shows the game after tic 2 t. Action t holds the inputs of the tics 2 t + 1 and 2 t + 2, which lead to frame t + 1. So a step is
two tics, and there are 17.5 steps per second.
"""

import contextlib
import fcntl
import hashlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from diamond_bench.data.foreign import ACTION_NAMES, FETCHED, HELDOUT, SETS, TRAIN, minari_root
from diamond_bench.data.minari_io import Episode, read_own_episodes, write_dataset, write_episode
from diamond_bench.datasets.demo_lumps import Demo, parse_demo
from diamond_bench.datasets.doom_actions import ACTIONS, COLUMNS, encode
from diamond_bench.datasets.doom_tool import HEIGHT, VERSION, WIDTH, Say, agreed, drawn_frames, find_tool, install_tool
from diamond_bench.datasets.wads import WADS, find_wads, read_lumps
from diamond_bench.errors import UserError, nearest
from diamond_bench.spaces import FrameSpec, WorldSpec
from diamond_bench.store.files import read_json, temporary_name, write_json

NAME, FACTS_FILE = FETCHED[0], "demos.json"
OUT_OF_MAP = "out_of_map"
DIVISORS = (1, 2, 4, 5, 8, 10)
"""Divisors of 200 and 320 that leave at least 20 rows."""
DEFAULT_DIVISOR = 5
OPENING = 39
"""Frames of the melting screen, which Doom draws before the frame of the first tic."""
GAP = 35
"""Frames, 2 s, between the training part and the held-out part of a demo, which belong to neither."""
RENDERINGS = 3
"""How often each demo is drawn, at the same time (`agreed`)."""
_GROUP = "episode"


@dataclass(frozen=True)
class Source:
    """A demo of a WAD."""

    wad: str
    number: int
    map: str
    tics: int
    out_of_map: bool = False
    """Whether the whole demo is held out, because nobody trains on its map."""

    @property
    def lump(self) -> str:
        """Its name in the WAD."""
        return f"DEMO{self.number}"

    def parts(self, frames: int) -> dict[str, tuple[int, int]]:
        """First frame and number of frames of each of its episodes, by their sets. `frames`: how many are played."""
        if self.out_of_map:
            return {OUT_OF_MAP: (0, frames)}
        last = frames // 10
        return {TRAIN: (0, frames - last - GAP), HELDOUT: (frames - last, last)}


SOURCES = (
    Source("freedoom1", 1, "E1M6", 7117),
    Source("freedoom1", 2, "E2M4", 7089),
    Source("freedoom1", 3, "E3M9", 6042),
    Source("freedoom1", 4, "E4M6", 3136),
    Source("freedoom2", 1, "MAP03", 2664, out_of_map=True),
    Source("freedoom2", 2, "MAP10", 5444),
    Source("freedoom2", 3, "MAP22", 2743, out_of_map=True),
    Source("freedoom2", 4, "MAP23", 4662),
)


@dataclass(frozen=True)
class Fetched:
    """A finished dataset."""

    folder: Path
    content_sha256: str
    created: bool
    """Whether it was created now. Otherwise it was there."""


def default_folder(divisor: int = DEFAULT_DIVISOR) -> Path:
    """The dataset's folder among Minari's. Its name is the dataset's id."""
    size = "" if divisor == DEFAULT_DIVISOR else f"-{HEIGHT // divisor}x{WIDTH // divisor}"
    return minari_root() / f"{NAME}{size}"


def fetch(
    divisor: int = DEFAULT_DIVISOR, out: Path | None = None, tool_python: Path | None = None, install: bool = False, say: Say = print
) -> Fetched:
    """Makes the dataset, unless it is there, and returns its folder.

    Each finished demo is kept, so a stopped command continues with the next one. The dataset appears whole or not at all.

    Args:
        divisor: one of DIVISORS. Frames of 200 x 320 pixels are reduced by area to 200 / divisor x 320 / divisor.
        out: the new folder. None is `default_folder`.
        tool_python: see `find_tool`.
        install: whether to install the tool where it is missing.
        say: gets a message about each step.

    Raises UserError, before anything is created, for another divisor, a folder that holds something else, and missing or changed WADs. The
    same holds for a missing tool. Later, if the tool draws something else than expected, and if the folder cannot be written.
    """
    if divisor not in DIVISORS:
        raise UserError(f"--divisor {divisor}: expected one of {', '.join(map(str, DIVISORS))}, so that frames have whole sides")
    out = (out or default_folder(divisor)).absolute()
    if (there := finished(out, divisor)) is not None:
        return there
    wads = find_wads()
    lumps = {name: read_lumps(file, [source.lump for source in SOURCES if source.wad == name]) for name, file in wads.items()}
    demos = {source: parse_demo(lumps[source.wad][source.lump], f"{source.wad} {source.lump}") for source in SOURCES}
    python = install_tool(say) if install and tool_python is None else find_tool(tool_python)
    kept = out.with_name(f".{out.name}.{divisor}.partial")
    try:
        with _alone(kept):
            if (there := finished(out, divisor)) is not None:  # another process made it before this one had the lock
                return there
            for number, (source, demo) in enumerate(demos.items(), 1):
                what = f"{source.wad} demo {source.number} ({source.map}), {number} of {len(demos)}"
                drawing = [drawn_frames(python, wads[source.wad], source.lump, source.tics) for _ in range(RENDERINGS)]
                _keep(kept, source, demo, agreed(drawing), divisor, what, say)
            return _publish(kept, out, divisor, demos)
    except OSError as error:
        raise UserError(f"{error.filename or out}: {error.strerror or error}; finished demos are kept in {kept}") from None


def finished(out: Path, divisor: int) -> Fetched | None:
    """The dataset in a folder. None if there is no such folder. Raises UserError if the folder holds something else."""
    if not out.exists():
        return None
    try:
        facts = read_json(out / FACTS_FILE)
        if facts["divisor"] == divisor:
            return Fetched(out, facts["content_sha256"], created=False)
        what = f"{NAME} with the divisor {facts['divisor']}"
    except (OSError, UserError, KeyError, TypeError):
        what = "something else"
    raise UserError(f"{out}: it exists already and holds {what}; choose another folder with --out, or delete it")


def content_sha256(data_folder: Path) -> str:
    """SHA-256 of the shapes and bytes of all frames and actions (int64, little-endian), episode by episode.

    Unlike the digest of the files, it does not depend on the versions of HDF5 and Minari.
    """
    total = hashlib.sha256()
    for episode in read_own_episodes(data_folder):
        for array in (episode.frames, episode.actions.astype("<i8")):
            total.update(f"{array.shape}".encode())
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


@contextlib.contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """The folder of finished demos, for this process alone."""
    kept.mkdir(parents=True, exist_ok=True)
    with (kept / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{kept}: another process is making this dataset; wait until it has ended") from None
        yield


def _file(kept: Path, source: Source, part: str) -> Path:
    return kept / f"{source.wad}-{source.number}-{part}.h5"


def _keep(kept: Path, source: Source, demo: Demo, drawn: Iterator[NDArray[np.uint8]], divisor: int, what: str, say: Say) -> None:
    """Draws a demo and writes its episodes, unless they are there."""
    parts = source.parts(played_frames(demo))
    files = {part: _file(kept, source, part) for part in parts}
    if all(file.is_file() for file in files.values()):
        say(f"{what}: kept from before")
        return
    started = time.perf_counter()
    if len(demo.commands) != source.tics:
        raise UserError(f"{what}: {len(demo.commands):,} tics, expected {source.tics:,}")
    frames = reduced(drawn, source.tics, divisor, what)
    actions = encode(demo.viewer[1 : 2 * len(frames) - 1])
    for part, (first, number) in parts.items():
        rows = slice(first, first + number)
        episode = Episode(frames[rows], actions[rows][: number - 1], None, terminated=False, truncated=True)
        temporary = temporary_name(files[part])
        try:
            with h5py.File(temporary, "w") as file:
                write_episode(file.create_group(_GROUP), episode)
            temporary.rename(files[part])
        finally:
            temporary.unlink(missing_ok=True)
    say(f"{what}: {sum(number for _, number in parts.values()):,} frames in {time.perf_counter() - started:.1f} s")


def played_frames(demo: Demo) -> int:
    """The number of frames up to the player's last input. Afterwards most of these players lie dead, and nobody plays."""
    return int(np.flatnonzero(demo.viewer.any(axis=1))[-1]) // 2 + 1


def reduced(drawn: Iterator[NDArray[np.uint8]], tics: int, divisor: int, what: str) -> NDArray[np.uint8]:
    """((tics + 1) // 2, 200 / divisor, 320 / divisor, 3): the frame of every second tic, reduced by area, without the opening.

    Raises UserError for another number of drawn frames than OPENING + tics.
    """
    height, width = HEIGHT // divisor, WIDTH // divisor
    frames = np.empty(((tics + 1) // 2, height, width, 3), np.uint8)
    count = 0
    for count, frame in enumerate(drawn, 1):
        tic, odd = divmod(count - 1 - OPENING, 2)
        if 0 <= tic < len(frames) and not odd:
            frames[tic] = frame if divisor == 1 else cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    if count != OPENING + tics:
        raise UserError(f"{what}: cydoomgeneric drew {count:,} frames, expected {OPENING + tics:,} ({OPENING} of them the opening)")
    return frames


def _publish(kept: Path, out: Path, divisor: int, demos: dict[Source, Demo]) -> Fetched:
    episodes = [
        (part, source)
        for part in (TRAIN, HELDOUT, OUT_OF_MAP)
        for source, demo in demos.items()
        if part in source.parts(played_frames(demo))
    ]
    sets: dict[str, list[int]] = {}
    for number, (part, _) in enumerate(episodes):
        sets.setdefault(part, []).append(number)
    temporary = temporary_name(out)
    try:
        spec = WorldSpec(FrameSpec(HEIGHT // divisor, WIDTH // divisor), ACTIONS, rewards=False, ends=False)
        files = [_file(kept, source, part) for part, source in episodes]
        write_dataset(temporary / "data", out.name, files, _GROUP, spec, {SETS: sets, ACTION_NAMES: list(COLUMNS)})
        digest = content_sha256(temporary / "data")
        write_json(temporary / FACTS_FILE, _facts(divisor, digest, episodes, demos))
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(kept, ignore_errors=True)
    return Fetched(out, digest, created=True)


def _facts(divisor: int, digest: str, episodes: list[tuple[str, Source]], demos: dict[Source, Demo]) -> dict[str, Any]:
    return {
        "divisor": divisor,
        "content_sha256": digest,
        "steps_per_second": 17.5,
        "columns": COLUMNS,
        "renderer": f"cydoomgeneric {VERSION}",
        "wads": {name: wad.sha256 for name, wad in WADS.items()},
        "episodes": [
            {
                "set": part,
                "wad": source.wad,
                "demo": source.number,
                "map": source.map,
                "first_tic": 2 * first,
                "frames": number,
                "players": len(demos[source].players),
                "view": demos[source].view + 1,
            }
            for part, source in episodes
            for first, number in [source.parts(played_frames(demos[source]))[part]]
        ],
    }


def check_name(name: str) -> None:
    """Raises UserError unless it is the name of this dataset."""
    if name != NAME:
        raise UserError(f"unknown dataset {name!r}: {nearest(name, [NAME])}")
