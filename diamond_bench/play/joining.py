"""Joins datasets of one game, such as several recordings of a player, to one dataset."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from diamond_bench.data.foreign import ACTION_NAMES, METADATA, PLAYED, Metadata, imagined, read_metadata
from diamond_bench.data.minari_io import MAIN_FILE, open_dataset, write_dataset
from diamond_bench.errors import UserError
from diamond_bench.spaces import FrameSpec, WorldSpec
from diamond_bench.store.files import unfinished_folder


def join_datasets(sources: Sequence[Path], out: Path) -> tuple[int, list[str]]:
    """Writes the episodes of recordings, which have one each, to the new dataset `out`.

    A recording whose frames and actions are the first ones of another recording, or all of them, is left out. Returns the number of
    episodes, and a sentence about each recording that was left out.

    `sources`: folders that `play` saved for the real game. Bytes are copied unchanged. The dataset appears whole or not at all.

    Raises UserError for a source that is no recording of a real game, for different frames or actions, if a source is named twice, and if
    `out` exists.
    """
    if out.exists():
        raise UserError(f"--out {out}: it exists already; choose another name")
    folders = [_found(source) for source in sources]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(f"{twice[0]} is named twice; expected different recordings")
    if not folders:
        raise UserError("expected the folders of recordings")
    metadata = [_recording(folder) for folder in folders]
    for folder, found in zip(folders, metadata, strict=True):
        if (found.frame_shape, replace(found.actions, names=())) != (metadata[0].frame_shape, replace(metadata[0].actions, names=())):
            raise UserError(
                f"{folder}: frames {found.frame_shape} and {found.actions}, but {folders[0]} has {metadata[0].frame_shape} and "
                f"{metadata[0].actions}; join recordings of one game"
            )
    height, width, _ = metadata[0].frame_shape
    described = WorldSpec(FrameSpec(height, width), metadata[0].actions, metadata[0].rewards, metadata[0].ends)
    names = next((found.actions.names for found in metadata if found.actions.names), ())
    games = list(dict.fromkeys(found.game for found in metadata))
    more = ({ACTION_NAMES: list(names)} if names else {}) | ({PLAYED: {"game": games[0]}} if games[0] and len(games) == 1 else {})
    kept, notes = _without_copies(folders)
    try:
        with unfinished_folder(out) as temporary:
            files = [folder / MAIN_FILE for folder in kept]
            write_dataset(temporary / "data", f"played/{out.name}", files, "episode_0", described, more)
            temporary.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    return len(kept), notes


def _without_copies(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The recordings that are no beginning of another one, and a sentence about each of the others."""
    lengths = {folder: read_metadata(folder).num_steps for folder in folders}
    kept, notes = list[Path](), list[str]()
    for folder in sorted(folders, key=lambda folder: -lengths[folder]):
        whole = next((other for other in kept if _begins(folder, other)), None)
        if whole is None:
            kept.append(folder)
        else:
            what = "a copy" if lengths[folder] == lengths[whole] else f"the first {lengths[folder]:,} steps"
            notes.append(f"{folder.parent} is left out: it is {what} of {whole.parent}")
    return [folder for folder in folders if folder in kept], notes


def _begins(short: Path, long: Path) -> bool:
    """Whether the actions and frames of a recording are the first ones of another one, which is at least as long."""
    with h5py.File(short / MAIN_FILE, "r") as ours, h5py.File(long / MAIN_FILE, "r") as theirs:
        pairs = [(ours["episode_0"][name], theirs["episode_0"][name]) for name in ("actions", "observations")]
        return all(np.array_equal(one[()], other[: len(one)]) for one, other in pairs)


def _found(source: Path) -> Path:
    for data in (source / "data", source):
        if (data / METADATA).is_file():
            return data.resolve()
    raise UserError(f"{source}: no recording there (no data/{METADATA})")


def _recording(folder: Path) -> Metadata:
    found = read_metadata(folder)
    if found.imagined_by is not None:
        raise imagined(str(folder), found.imagined_by)
    if found.num_episodes != 1 or found.data_format != "hdf5" or found.jpeg or found.frame_shape[2:] != (3,):
        raise UserError(f"{folder}: not a recording that `diamond-bench play` saved (one episode of RGB frames in HDF5, without JPEG)")
    open_dataset(folder)
    return found
