"""Finding somebody's Minari dataset and its identity. No torch, no Minari: planning calls this for every study."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from diamond_bench.errors import UserError, nearest

METADATA = "metadata.json"
"""The file of a Minari dataset that tells what the others hold."""


def find_dataset(name: str) -> Path:
    """The data folder (the one with metadata.json) of a Minari dataset given as a folder, its `data` folder, or a Minari id.

    Ids are looked up in $MINARI_DATASETS_PATH, or ~/.minari/datasets; nothing is ever downloaded. UserError with the nearest ids.
    """
    root = minari_root()
    for folder in (Path(name).expanduser(), root / name):
        for data in (folder / "data", folder):
            if (data / METADATA).is_file():
                _check_metadata(data / METADATA)
                return data.resolve()
    if Path(name).expanduser().is_dir():
        raise UserError(f"data.dataset={name!r}: no Minari dataset there (no data/{METADATA})")
    found = [metadata.parent.parent.relative_to(root).as_posix() for metadata in root.glob(f"**/data/{METADATA}")]
    raise UserError(
        f"data.dataset={name!r}: neither a folder nor the id of a Minari dataset in {root} ({nearest(name, found)}); "
        f"to fetch one from Minari's server yourself: minari download {name}"
    )


_DATA_FILES = {"hdf5": "main_data.hdf5", "arrow": "*/metadata.json"}
"""What of a dataset's formats must be there, as a pattern."""


def _check_metadata(file: Path) -> None:
    """Refuses a folder that only looks like a dataset. Raises UserError naming the file and what is wrong with it."""
    try:
        content = json.loads(file.read_text())
        data_format, episodes = content["data_format"], int(content["total_episodes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file}: not the metadata of a Minari dataset ({what})") from None
    if data_format not in _DATA_FILES:
        raise UserError(f"{file}: unknown data_format {data_format!r}: {nearest(str(data_format), _DATA_FILES)}")
    if not any(file.parent.glob(_DATA_FILES[data_format])):
        raise UserError(f"{file.parent}: the dataset's {_DATA_FILES[data_format]} is missing")
    if episodes < 1:
        raise UserError(f"{file}: the dataset has no episodes")


def minari_root() -> Path:
    """Where Minari keeps datasets by id: $MINARI_DATASETS_PATH, else ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def dataset_digest(data_folder: Path, cache_folder: Path | None = None) -> str:
    """SHA-256 (64 hex digits) over the names and bytes of all files of a dataset's data folder.

    Remembered in digests.json of `cache_folder` (default ~/.cache/diamond_bench) for as long as no file changes its size or
    time of modification; a cache that cannot be read or written only costs the reading.
    """
    files = sorted((path for path in data_folder.rglob("*") if path.is_file()), key=lambda path: path.relative_to(data_folder).as_posix())
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
    with contextlib.suppress(OSError):  # an unwritable cache is no error: the digest is simply computed again
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache_file.with_name(f".{cache_file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(cache))
        temporary.replace(cache_file)
    return total.hexdigest()


def _read_cache(file: Path) -> dict[str, dict[str, object]]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: entry for key, entry in content.items() if isinstance(entry, dict) and {"stamp", "digest"} <= entry.keys()}
