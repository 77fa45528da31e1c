"""Datasets of the store, written in other formats."""

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from diamond_bench.data.foreign import MAX_SIDE, SPLIT_FILE
from diamond_bench.data.frame_actions import Mapped
from diamond_bench.data.frame_writer import count_files, write_frame_files
from diamond_bench.data.pictures import Picture
from diamond_bench.data.sources import open_source
from diamond_bench.data.static import load_info
from diamond_bench.errors import UserError
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import temporary_name
from diamond_bench.store.jobspec import JobRef
from diamond_bench.stored.models import require_whole

DATASETS = ("collect_dataset", "import_dataset")
_SAY_EVERY_SECONDS = 2.0


def columns_of(words: Sequence[str]) -> dict[str, str]:
    """The options --column NAME=COLUMN as {NAME: COLUMN}. Raises UserError."""
    found: dict[str, str] = {}
    for word in words:
        name, sign, column = word.partition("=")
        if not sign or not column or name in found:
            raise UserError(f"--column {word}: expected NAME=COLUMN, such as --column jump=hop, and each NAME once")
        found[name] = column
    return found


def size_of(word: str | None) -> FrameSpec | None:
    """The option --size HEIGHTxWIDTH. Raises UserError."""
    if word is None:
        return None
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", word)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise UserError(f"--size {word}: expected HEIGHTxWIDTH in pixels, each at most {MAX_SIDE}, such as --size 150x280")
    return FrameSpec(*sides)


def export_frames(
    store: Store,
    dataset: JobRef,
    out: Path,
    renamed: Mapping[str, str],
    left_out: Sequence[str] = (),
    size: FrameSpec | None = None,
    say: Callable[[str], None] = print,
) -> tuple[int, int]:
    """Writes a finished dataset as HDF5 files of frames to the new folder `out`. test_split.txt there names the held-out files.

    `renamed` and `left_out`: see `Mapped`. `size`: None keeps the stored size. Returns the numbers of files for training and held out. The
    folder appears whole or not at all. `say` is called with the number of files every few seconds. Raises UserError.
    """
    if dataset.kind not in DATASETS:
        raise UserError(f"{dataset}: no dataset; name a job of {' or '.join(DATASETS)}")
    if out.exists():
        raise UserError(f"{out} exists already; name another folder")
    require_whole(store, dataset)
    folder = store.folder(dataset)
    spec = load_info(folder).spec
    mapped, picture = Mapped(spec.actions, renamed, left_out), Picture(size or spec.frames)
    temporary = temporary_name(out)
    files: dict[str, list[Path]] = {"train": [], "heldout": []}
    last = time.monotonic()
    try:
        temporary.mkdir(parents=True)
        for split, written in files.items():
            with closing(open_source("streamed", folder / split, "cpu", readers=0)) as source:
                for path in write_frame_files(source, mapped, picture, temporary, 1 + sum(map(len, files.values()))):
                    written.append(path)
                    if time.monotonic() - last > _SAY_EVERY_SECONDS:
                        last = time.monotonic()
                        say(f"{split}: {len(written)} of {count_files(source)} files written")
        (temporary / SPLIT_FILE).write_text("".join(f"{path.name}\n" for path in files["heldout"]))
        temporary.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(files["train"]), len(files["heldout"])
