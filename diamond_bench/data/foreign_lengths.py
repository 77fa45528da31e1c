"""Checks whether the user's own dataset is long enough for a plan, from its files' headers. Without torch and Minari."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diamond_bench.data.action_tables import read_table
from diamond_bench.data.foreign import (
    FRAME_FILES,
    METADATA,
    SPLIT_FILE,
    VIDEOS,
    Format,
    Metadata,
    format_of,
    held_out,
    own_files,
    read_metadata,
)
from diamond_bench.errors import UserError
from diamond_bench.reading import read_json
from diamond_bench.shapes import count, record
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec

if TYPE_CHECKING:
    import h5py

_MAX_READ = 20_000
"""Maximum number of episodes whose lengths are read. Larger datasets are checked by the import."""
_MAX_BYTES = 1_000_000
"""Maximum size of an episode's metadata file in bytes. It has a few hundred."""
_EPISODE = record({"total_steps": count})


def check_length(folder: Path, references: int, window: int, per_episode: int | None, set_name: str | None = None) -> None:
    """Raises UserError if no split of the dataset in the data folder `folder` can hold out enough windows.

    `references` windows of `window` frames must lie in whole episodes, at most `per_episode` of them in each, and at least one episode must
    remain for training. `set_name` is the set of episodes that is held out (`heldout_set`). The import may still refuse the dataset,
    because it also refuses windows that occur in training.
    """
    lengths, heldout = _lengths_of(folder, set_name)
    if lengths is None:
        return
    if len(lengths) == 1:
        raise UserError(f"data.dataset={folder}: its one episode is for training, and none is left for references: bring more episodes")
    windows = [length // window if per_episode is None else min(length // window, per_episode) for length in lengths]
    possible = sum(windows) - min(windows) if heldout is None else sum(windows[index] for index in heldout)
    if possible >= references:
        return
    longest = max(lengths)
    both = f"data.reference_context + data.reference_horizon by {window - longest} or more"
    shorter = f"lower {'data.reference_horizon' if longest >= window else both}"
    more = "" if per_episode is None else "raise data.windows_per_episode, "
    others = "One is for training. The others hold" if heldout is None else f"The {len(heldout)} of {listed_in(set_name)} hold"
    raise UserError(
        f"data.dataset={folder}: too short for this scale. Its {len(lengths)} episodes have up to {longest} frames. {others} "
        f"at most {possible} windows of {window} frames (data.reference_context + data.reference_horizon), "
        f"and {references} are needed (data.num_references): {shorter}, lower data.num_references, {more}take a smaller scale=, or bring "
        "more episodes"
    )


def stated_actions(folder: Path) -> ActionSpec:
    """The actions of the dataset in a folder from `find_dataset`. Raises UserError if it is damaged."""
    kind = format_of(folder)
    if kind == "minari":
        return read_metadata(folder).actions
    if kind == "videos":
        return read_table(own_files(folder, VIDEOS)[0].with_suffix(".csv")).actions
    from diamond_bench.envs.first_person import ACTIONS

    return ACTIONS


def stated_spec(folder: Path, frames: FrameSpec) -> WorldSpec:
    """The game of the dataset in a folder from `find_dataset`, whose frames are resized to `frames`. Only Minari datasets state rewards and
    ends. Raises UserError if it is damaged."""
    metadata = read_metadata(folder) if format_of(folder) == "minari" else None
    outcomes = (False, False) if metadata is None else (metadata.rewards, metadata.ends)
    return WorldSpec(frames, stated_actions(folder), *outcomes)


def listed_in(set_name: str | None) -> str:
    """The list of held-out episodes in words: a set of a Minari dataset, or the file of other formats."""
    return SPLIT_FILE if set_name is None else f"the set {set_name}"


def _lengths_of(folder: Path, set_name: str | None) -> tuple[Sequence[int] | None, Sequence[int] | None]:
    """Frames of each episode (see `_lengths`), and the episodes that the dataset's own list holds out, if it has one."""
    kind = format_of(folder)
    if kind == "minari":
        metadata = read_metadata(folder)
        listed = None if set_name is None else metadata.set_of(set_name)
        return _lengths(folder, metadata, (folder / METADATA).stat().st_mtime_ns), listed
    files = own_files(folder, (FRAME_FILES,) if kind == "frame_files" else VIDEOS)
    stamp = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in own_files(folder, (FRAME_FILES, ".csv")))
    return _own_lengths(folder, kind, stamp), held_out(folder, files)


@functools.lru_cache(maxsize=8)
def _own_lengths(folder: Path, kind: Format, stamp: tuple[tuple[Path, int, int], ...]) -> Sequence[int]:
    """`stamp`: sizes and modification times, so that files that changed are read again."""
    if kind == "frame_files":
        from diamond_bench.data.frame_files import lengths
    else:
        from diamond_bench.data.videos import lengths
    return tuple(lengths(folder))


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
