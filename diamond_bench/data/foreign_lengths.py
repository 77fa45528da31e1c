"""Checks whether the user's own Minari dataset is long enough for a plan, from its files' headers. Without torch and Minari."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diamond_bench.data.foreign import METADATA, Metadata, read_metadata
from diamond_bench.errors import UserError
from diamond_bench.reading import read_json
from diamond_bench.shapes import count, record

if TYPE_CHECKING:
    import h5py

_MAX_READ = 20_000
"""Maximum number of episodes whose lengths are read. Larger datasets are checked by the import."""
_MAX_BYTES = 1_000_000
"""Maximum size of an episode's metadata file in bytes. It has a few hundred."""
_EPISODE = record({"total_steps": count})


def check_length(folder: Path, references: int, window: int, per_episode: int | None) -> None:
    """Raises UserError if no split of the dataset in the data folder `folder` can hold out enough windows.

    `references` windows of `window` frames must lie in whole episodes, at most `per_episode` of them in each, and at least one episode must
    remain for training. The import may still refuse the dataset, because it also refuses windows that occur in training.
    """
    metadata = read_metadata(folder)
    lengths = _lengths(folder, metadata, (folder / METADATA).stat().st_mtime_ns)
    if lengths is None:
        return
    if len(lengths) == 1:
        raise UserError(f"data.dataset={folder}: its one episode is for training, and none is left for references: bring more episodes")
    windows = [length // window if per_episode is None else min(length // window, per_episode) for length in lengths]
    possible = sum(windows) - min(windows)
    if possible >= references:
        return
    longest = max(lengths)
    both = f"data.reference_context + data.reference_horizon by {window - longest} or more"
    shorter = f"lower {'data.reference_horizon' if longest >= window else both}"
    more = "" if per_episode is None else "raise data.windows_per_episode, "
    raise UserError(
        f"data.dataset={folder}: too short for this scale. Its {len(lengths)} episodes have up to {longest} frames. One is "
        f"for training. The others hold at most {possible} windows of {window} frames (data.reference_context + data.reference_horizon), "
        f"and {references} are needed (data.num_references): {shorter}, lower data.num_references, {more}take a smaller scale=, or bring "
        "more episodes"
    )


@functools.lru_cache(maxsize=64)
def _lengths(folder: Path, metadata: Metadata, changed: int) -> Sequence[int] | None:
    """Frames of each episode, including the last one, as stated by the files. None if they do not state it: the import then reports the
    problem.

    `changed`: modification time of the metadata, so that a growing dataset is read again.
    """
    if metadata.num_episodes > _MAX_READ:
        return None
    try:
        if metadata.data_format == "arrow":
            return tuple(_stated(folder / str(index) / METADATA) for index in range(metadata.num_episodes))
        import h5py

        with h5py.File(folder / "main_data.hdf5") as file:
            return tuple(_stored(file, metadata.num_episodes))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None


def _stated(file: Path) -> int:
    content = read_json(file, _MAX_BYTES)
    _EPISODE(content)
    return int(content["total_steps"]) + 1


def _stored(file: "h5py.File", num_episodes: int) -> Iterator[int]:
    import h5py

    for index in range(num_episodes):
        names = f"episode_{index}", f"episode_{index}/rewards"
        if any(not isinstance(file.get(name, getlink=True), h5py.HardLink) for name in names):  # never follows a link to another file
            raise KeyError(names[1])
        yield int(file[names[1]].shape[0]) + 1
