"""Joins datasets of one game, such as several recordings of a player, to one dataset."""

from collections.abc import Sequence
from pathlib import Path

from diamond_bench.data.foreign import METADATA, Metadata, imagined, read_metadata
from diamond_bench.data.minari_io import MAIN_FILE, open_dataset, write_dataset
from diamond_bench.errors import UserError
from diamond_bench.spaces import FrameSpec, WorldSpec
from diamond_bench.store.files import unfinished_folder


def join_datasets(sources: Sequence[Path], out: Path) -> int:
    """Writes the episodes of recordings, which have one each, to the new dataset `out`. Returns the number of episodes.

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
        if (found.frame_shape, found.actions) != (metadata[0].frame_shape, metadata[0].actions):
            raise UserError(
                f"{folder}: frames {found.frame_shape} and {found.actions}, but {folders[0]} has {metadata[0].frame_shape} and "
                f"{metadata[0].actions}; join recordings of one game"
            )
    height, width, _ = metadata[0].frame_shape
    described = WorldSpec(FrameSpec(height, width), metadata[0].actions, metadata[0].rewards, metadata[0].ends)
    try:
        with unfinished_folder(out) as temporary:
            files = [folder / MAIN_FILE for folder in folders]
            write_dataset(temporary / "data", f"played/{out.name}", files, "episode_0", described)
            temporary.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    return len(folders)


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
