"""Copies datasets to a local disk of the node before they are read, so that a hundred jobs that start at once do not all read from one file
server."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diamond_bench.store.artifacts import Store, check_files
from diamond_bench.store.files import DamagedFile
from diamond_bench.store.jobspec import JobRef

DATASETS = ("collect_dataset", "import_dataset")


def on_node(store: Store, ref: JobRef, scratch: Path, say: Callable[[str], None]) -> Path:
    """The folder from which to read a finished dataset. This is a copy below `scratch`, created if missing. If the node's disk cannot hold
    it, this is the store's own folder, and `say` reports that. The copy is kept for later jobs."""
    folder = store.folder(ref)
    files = store.result(ref).files
    copy = scratch / "diamond_bench" / ref.kind / ref.id
    if _whole(copy, files):
        return copy
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f".{ref.id}-", dir=copy.parent))
        try:
            for name in files:
                (making / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, making / name)
            try:
                making.rename(copy)
            except OSError:  # another job was faster (its copy may be in use), or a partial copy is there
                if not _whole(copy, files):
                    shutil.rmtree(copy)
                    making.rename(copy)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        check_files(copy, files, contents=False)
    except (OSError, DamagedFile) as error:
        say(f"{ref} is read from the store: it could not be copied to {scratch} ({error})")
        return folder
    return copy


def _whole(copy: Path, files: Mapping[str, list[Any]]) -> bool:
    try:
        check_files(copy, files, contents=False)
    except DamagedFile:
        return False
    return True
