"""Locates the user's own dataset and computes its identity. Without torch and Minari, since planning calls it for every study."""

import contextlib
import functools
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diamond_bench.errors import UserError, nearest
from diamond_bench.reading import load_json, read_file, read_json
from diamond_bench.shapes import Mismatch, anything, count, flag, listing, mapping, number, record, row, text, whole
from diamond_bench.spaces import ActionSpec

METADATA = "metadata.json"
"""The file of a Minari dataset that describes the others."""
IMAGINED, IMAGINED_BY = "imagined", "imagined_by"
"""The key of the metadata, and the info of an episode, that mark frames which a world model imagined."""
ACTION_NAMES = "action_names"
"""The key of the metadata that names the columns of actions, or the actions of a Discrete space."""
TRAIN, HELDOUT, SETS = "train", "heldout", "sets"
"""Names of sets of episodes, and the key of the metadata that lists the episodes of each set by their numbers."""
PLAYED, PLAYED_GAME = "played", "played_game"
"""The keys of the game that `diamond-bench play` recorded, in the metadata and in the dataset.json of the imported dataset."""
FETCHED = ("freedoom_demos",)
"""Ids of the datasets that `diamond-bench datasets fetch` makes. An id may end in a size, such as `-200x320`."""


def find_dataset(name: str) -> Path:
    """The folder of a dataset, given as a folder or a Minari id.

    For a Minari dataset this is its `data` folder, the one with metadata.json. The other formats are a folder of HDF5 files of frames and a
    folder of videos (`format_of`). Ids are searched in $MINARI_DATASETS_PATH, or ~/.minari/datasets. Nothing is ever downloaded. Raises
    UserError with the nearest ids.
    """
    root = minari_root()
    for folder in (Path(name).expanduser(), root / name):
        for data in (folder / "data", folder):
            if (data / METADATA).is_file():
                _check_dataset(data)
                return data.resolve()
        if folder.is_dir() and format_of(folder) != "minari":
            return folder.resolve()
    if Path(name).expanduser().is_dir():
        raise UserError(
            f"data.dataset={name!r}: no dataset there: no data/{METADATA} of Minari, no HDF5 files of frames (*{FRAME_FILES}), and no "
            f"videos ({', '.join(VIDEOS)})"
        )
    if Path(name).expanduser().is_file():
        raise UserError(f"data.dataset={name!r}: a file; name the folder that holds it: data.dataset={Path(name).parent}")
    if name.startswith((".", "~", "/")):
        siblings = [str(path) for path in Path(name).parent.glob("*/")]
        raise UserError(f"data.dataset={name!r}: no such folder; {nearest(name, siblings)}")
    known, dash, _ = name.partition("-")
    if known in FETCHED:
        command = f"diamond-bench datasets fetch {known}{' --divisor N' if dash else ''}"
        raise UserError(f"data.dataset={name}: it is not in {root} yet; make it with: {command}")
    if "did you mean" in (near := nearest(name, FETCHED)):
        raise UserError(f"data.dataset={name!r}: no such dataset; {near}")
    found = [metadata.parent.parent.relative_to(root).as_posix() for metadata in root.glob(f"**/data/{METADATA}")]
    raise UserError(
        f"data.dataset={name!r}: neither a folder nor the id of a Minari dataset in {root} ({nearest(name, found)}); "
        f"to fetch one from Minari's server yourself: minari download {name}"
    )


Format = Literal["minari", "frame_files", "videos"]
FRAME_FILES = ".hdf5"
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
SPLIT_FILE = "test_split.txt"
"""Names of the files that are held out, one per line, in a folder of HDF5 files of frames or of videos."""
_MINARI_FILE = "main_data.hdf5"


def format_of(folder: Path) -> Format:
    """The format of a dataset, by the names of its files."""
    if (folder / METADATA).is_file():
        return "minari"
    return "frame_files" if own_files(folder, (FRAME_FILES,)) else "videos" if own_files(folder, VIDEOS) else "minari"


def own_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with these suffixes in a folder and the folders below it, by the number after the last underscore, then by name."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.name != _MINARI_FILE and not path.is_dir()]
    return sorted(found, key=lambda path: (_number(path), path.relative_to(folder).as_posix()))


def _number(path: Path) -> float:
    digits = path.stem.rpartition("_")[2]
    return int(digits[:18]) if digits.isascii() and digits.isdigit() else math.inf


def held_out(folder: Path, files: Sequence[Path]) -> list[int] | None:
    """The indices of the files that test_split.txt names. None if there is no such file.

    Raises UserError with the nearest name for a name without a file, and for a name that is no name of one file alone.
    """
    listed = folder / SPLIT_FILE
    if not listed.exists():
        return None
    try:
        names = [line.strip() for line in read_file(listed, _MAX_BYTES).decode().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{listed}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    numbers: dict[str, list[int]] = {}
    for index, path in enumerate(files):
        numbers.setdefault(path.name, []).append(index)
    absent = [name for name in names if name not in numbers]
    if absent:
        more = f" It names {len(absent)} absent files in all." if len(absent) > 1 else ""
        raise UserError(f"{listed}: {absent[0]!r} is not in the folder: {nearest(absent[0], numbers)}{more}")
    listed_times = Counter(names)
    if twice := next((name for name in names if len(numbers[name]) > 1 or listed_times[name] > 1), None):
        raise UserError(f"{listed}: {twice!r} occurs twice, in the list or in the folder; expected each name once")
    if not names or len(names) == len(files):
        raise UserError(f"{listed}: it names {len(names)} of {len(files)} files; expected at least one to hold out and one for training")
    return [numbers[name][0] for name in names]


_DATA_FILES = {"hdf5": "main_data.hdf5", "arrow": "*/metadata.json"}
"""The files that each format must have, as a pattern."""
MAX_EPISODES, MAX_STEPS, MAX_ACTIONS, MAX_SIDE = 1_000_000, 1_000_000_000, 1_000, 4096
"""Limits of a dataset: episodes, steps, actions, and the side of an observation in pixels."""
_MAX_BYTES = 64 * 2**20
"""Maximum size of a metadata file in bytes. It lists the bounds of each pixel: 0.8 MB for 210 x 160 RGB."""


def _long_text(value: Any) -> None:
    if not isinstance(value, str):
        raise Mismatch("text", value)


_METADATA = record(
    {"data_format": text, "total_episodes": count, "total_steps": count},
    {
        "jpeg_encoding": flag,
        IMAGINED: record({"by": text}),
        **dict.fromkeys(("rewards", "ends"), flag),
        SETS: mapping(listing(count, 1)),
        ACTION_NAMES: listing(text),
        PLAYED: record({"game": text}),
        **dict.fromkeys(("observation_space", "action_space"), _long_text),
    },
)
_SPACE = record({"type": text})
_BOX = record({"dtype": text, "shape": listing(count)})
_ACTIONS = {
    "Discrete": record({"n": count, "start": whole}),
    "MultiDiscrete": record({"nvec": listing(count, 1)}, {"start": listing(whole)}),
    "Box": record({"dtype": text, "shape": row(count), "low": listing(number), "high": listing(number)}),
}
"""Shapes of the action spaces that can be imported."""


@dataclass(frozen=True)
class Metadata:
    """The description of a dataset of images in its metadata.json."""

    data_format: str
    """hdf5 or arrow."""
    jpeg: bool
    """Whether observations may be stored as JPEG files."""
    num_episodes: int
    num_steps: int
    """Action space of all episodes."""
    frame_shape: tuple[int, ...]
    """Shape of an observation, uint8: (h, w), (h, w, 1 or 3) or (1 or 3, h, w)."""
    actions: ActionSpec
    first_action: tuple[int, ...]
    """The minimum of each column. Zeros for continuous actions."""
    imagined_by: str | None = None
    """What imagined the frames, such as a job's id. None for a real game."""
    rewards: bool = True
    """Whether steps have rewards. Without them, every stored reward is NaN."""
    ends: bool = True
    """Whether an episode can end by itself."""
    sets: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(name, numbers of its episodes) of each named set. One is called train. Empty if the dataset names none."""
    game: str | None = None
    """The game, if `diamond-bench play` recorded it."""

    def set_of(self, name: str) -> tuple[int, ...]:
        """The numbers of a set's episodes."""
        return dict(self.sets)[name]


def read_metadata(data_folder: Path) -> Metadata:
    """Reads a dataset's metadata. Raises UserError with the file's name if it is no such metadata, or exceeds the limits."""
    file = data_folder / METADATA
    try:
        found = file.stat()
    except OSError as error:
        raise UserError(f"{file}: not the metadata of a Minari dataset ({error.strerror})") from None
    return _read_metadata(data_folder, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=8)
def _read_metadata(data_folder: Path, changed: int, size: int) -> Metadata:
    """`read_metadata`, called once per modification time and size of the file: large images have a megabyte of bounds, and a plan reads it
    for each point."""
    file = data_folder / METADATA
    try:
        content = read_json(file, _MAX_BYTES)
        _METADATA(content)
        if not {"observation_space", "action_space"} <= content.keys():
            raise ValueError("it names no spaces, and its environment is never built to find out")
        observations, actions = (load_json(content[name]) for name in ("observation_space", "action_space"))
        for space, shapes in ((observations, {"Box": _BOX}), (actions, _ACTIONS)):
            _SPACE(space)
            if space["type"] in shapes:
                shapes[space["type"]](space)
        spec = _action_spec(actions, tuple(content.get(ACTION_NAMES, ())))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not the metadata of a Minari dataset ({getattr(error, 'strerror', None) or error})") from None
    if spec is None:
        kind = actions["type"][:60]
        raise UserError(f"{data_folder}: its actions are {kind}; {', '.join(_ACTIONS)} can be imported")
    if observations["type"] != "Box" or not _is_image(observations["dtype"], observations["shape"]):
        claimed = " ".join(str(observations.get(key, ""))[:60] for key in ("type", "dtype", "shape"))
        raise UserError(
            f"{data_folder}: its observations are {claimed.strip()}; expected uint8 images: (h, w), (h, w, 1 or 3) or (1 or 3, h, w), "
            f"sides of at most {MAX_SIDE}"
        )
    for found, least, most, what in (
        (content["total_episodes"], 1, MAX_EPISODES, "episodes"),
        (content["total_steps"], 1, MAX_STEPS, "steps"),
        (spec.width, 1, MAX_ACTIONS, "actions"),
    ):
        if not least <= found <= most:
            raise UserError(f"{file}: the dataset has {found or 'no'} {what}; from {least} to {most:,} can be imported")
    return Metadata(
        content["data_format"],
        content.get("jpeg_encoding", True),  # Minari's own default
        content["total_episodes"],
        content["total_steps"],
        tuple(observations["shape"]),
        spec,
        _first_action(actions, spec),
        content[IMAGINED]["by"] if IMAGINED in content else None,
        content.get("rewards", True),
        content.get("ends", True),
        _sets(file, content),
        content[PLAYED]["game"] if PLAYED in content else None,
    )


def _sets(file: Path, content: dict[str, Any]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    sets = {name: tuple(numbers) for name, numbers in content.get(SETS, {}).items()}
    numbers = [number for found in sets.values() for number in found]
    if sets and (TRAIN not in sets or len(sets) == 1):
        raise UserError(f"{file}: its sets of episodes are {', '.join(sets)[:200]}; expected {TRAIN} and at least one other")
    if len(set(numbers)) < len(numbers) or max(numbers, default=0) >= content["total_episodes"]:
        raise UserError(f"{file}: its sets name an episode twice, or one that is not there (0 to {content['total_episodes'] - 1})")
    return tuple(sets.items())


def heldout_set(folder: Path, wanted: str | None) -> str | None:
    """The set of a dataset's episodes that are held out: `wanted` (data.heldout), by default the set heldout.

    None if the dataset names no sets, so that held-out episodes are drawn. Raises UserError for a set that it does not have.
    """
    sets = read_metadata(folder).sets if format_of(folder) == "minari" else ()
    names = [name for name, _ in sets if name != TRAIN]
    chosen = wanted or HELDOUT
    if not names and wanted is None:
        return None
    if not names:
        raise UserError(f"data.heldout={wanted}: {folder} names no sets of episodes; leave data.heldout out, and episodes are drawn")
    if chosen not in names:
        raise UserError(f"data.heldout={chosen}: {folder} has no such set of held-out episodes ({nearest(chosen, names)})")
    return chosen


def _action_spec(space: dict[str, Any], names: tuple[str, ...]) -> ActionSpec | None:
    """None for a kind that cannot be imported. Raises ValueError for a space without actions, or a Box of integers."""
    if 0 in (space.get("n"), *space.get("nvec", ())):
        raise ValueError(f"the dataset has no actions; from 1 to {MAX_ACTIONS:,} can be imported")
    if space["type"] == "Discrete":
        return ActionSpec.discrete(space["n"], names)
    if space["type"] == "MultiDiscrete":
        return ActionSpec.columns(tuple(space["nvec"]), names)
    if space["type"] != "Box":
        return None
    if not space["dtype"].startswith("float") or [len(space["low"]), len(space["high"])] != space["shape"] * 2:
        raise ValueError(f"actions: a Box of {space['dtype'][:60]} with {len(space['low'])} low and {len(space['high'])} high bounds")
    return ActionSpec.continuous(tuple(space["low"]), tuple(space["high"]), names)


def _first_action(space: dict[str, Any], spec: ActionSpec) -> tuple[int, ...]:
    start = space.get("start", [0] * len(spec.sizes))
    return tuple(start) if isinstance(start, list) else (start,)


def _is_image(dtype: str, shape: list[int]) -> bool:
    layout = len(shape) == 2 or (len(shape) == 3 and (shape[2] in (1, 3) or shape[0] in (1, 3)))
    return dtype == "uint8" and layout and all(1 <= side <= MAX_SIDE for side in shape)


def _check_dataset(data_folder: Path) -> None:
    """Refuses a folder that only looks like a dataset. Raises UserError with the file's name and the problem."""
    metadata = read_metadata(data_folder)
    if metadata.imagined_by is not None:
        raise imagined(str(data_folder), metadata.imagined_by)
    data_format = metadata.data_format
    if data_format not in _DATA_FILES:
        raise UserError(f"{data_folder / METADATA}: unknown data_format {data_format[:60]!r}: {nearest(data_format, _DATA_FILES)}")
    if not any(file.is_file() for file in data_folder.glob(_DATA_FILES[data_format])):
        raise UserError(f"{data_folder}: the dataset's {_DATA_FILES[data_format]} is missing, or not a file")


def imagined(where: str, by: str) -> UserError:
    """The message for imagined frames where a study needs real ones. `by`: what imagined them."""
    return UserError(f"{where}: its frames were imagined by {by[:100]}, and a study needs frames of the real game")


def minari_root() -> Path:
    """Minari's folder of datasets by id: $MINARI_DATASETS_PATH, else ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def dataset_digest(data_folder: Path, cache_folder: Path | None = None) -> str:
    """SHA-256 (64 hex digits) over the names and bytes of all files in a dataset's data folder. For HDF5 files of frames and for videos, it
    covers those files, the CSV files and the list of held-out files.

    The digest is cached in digests.json of `cache_folder` (default ~/.cache/diamond_bench) until a file changes its size or modification
    time. If the cache cannot be read or written, the digest is computed again.
    """
    inside = _files(data_folder)
    for path in inside:
        if not path.is_file():  # reading a FIFO would block
            raise UserError(f"{path}: not a regular file; a dataset contains only regular files")
    files = sorted(inside, key=lambda path: path.relative_to(data_folder).as_posix())
    if not files:
        raise UserError(f"{data_folder}: no files of a dataset there")
    stamp = [[path.relative_to(data_folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    cache_file = (cache_folder or Path.home() / ".cache" / "diamond_bench") / "digests.json"
    cache = _read_cache(cache_file)
    key = str(data_folder.resolve())
    if key in cache and cache[key]["stamp"] == stamp:
        return str(cache[key]["digest"])
    total = hashlib.sha256()
    for path, (name, size, _) in zip(files, stamp, strict=True):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(json.dumps([name, size, content]).encode())
    cache[key] = {"stamp": stamp, "digest": total.hexdigest()}
    with contextlib.suppress(OSError):  # an unwritable cache is no error, since the digest is simply computed again
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache_file.with_name(f".{cache_file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(cache))
        temporary.replace(cache_file)
    return total.hexdigest()


def _files(folder: Path) -> list[Path]:
    kind = format_of(folder)
    if kind == "minari":
        return [path for path in folder.rglob("*") if not path.is_dir()]
    files = own_files(folder, (FRAME_FILES,) if kind == "frame_files" else (*VIDEOS, ".csv"))
    return files + [path for path in (folder / SPLIT_FILE,) if path.exists()]


_CACHE = mapping(record({"stamp": anything, "digest": text}))


def _read_cache(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = read_json(file, _MAX_BYTES)
        _CACHE(content)
    except (OSError, ValueError):
        return {}
    return content
