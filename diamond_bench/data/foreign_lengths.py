"""Whether somebody's Minari dataset is long enough for what a plan asks of it; read from its files' headers. No torch, no Minari."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

from diamond_bench.data.foreign import METADATA
from diamond_bench.errors import UserError

_MOST_READ = 20_000
"""Episodes whose lengths are read; of a larger dataset only the total is known."""


def check_length(folder: Path, references: int, window: int, per_episode: int | None) -> None:
    """Raises UserError where no split of the dataset in the data folder `folder` can hold out enough windows.

    `references` windows of `window` frames must lie in whole episodes, at most `per_episode` of them in each, and at least one episode
    must be left to train on. Passing is no promise: the import also refuses windows that occur in training.
    """
    lengths = _lengths(folder, (folder / METADATA).stat().st_mtime_ns)
    if lengths is None:
        return
    windows = [length // window if per_episode is None else min(length // window, per_episode) for length in lengths]
    possible = sum(windows) - min(windows)
    if possible >= references:
        return
    longest = max(lengths)
    shorter = "lower data.reference_horizon" if longest >= window else f"lower data.reference_horizon by {window - longest} or more"
    more = "" if per_episode is None else "raise data.windows_per_episode, "
    raise UserError(
        f"data.dataset={folder}: too short for this scale. Its {len(lengths)} episodes have up to {longest} frames. One is "
        f"for training. The others hold at most {possible} windows of {window} frames (data.reference_context + data.reference_horizon), "
        f"and {references} are needed (data.num_references): {shorter}, lower data.num_references, {more}take a smaller scale=, or bring "
        "more episodes"
    )


@functools.lru_cache(maxsize=64)
def _lengths(folder: Path, changed: int) -> Sequence[int] | None:
    """Frames of each episode, its last included, as the files state them; None where they do not: the import says what is wrong.

    `changed`: when the metadata were last written, so that a dataset that grows is read again.
    """
    try:
        episodes = json.loads((folder / METADATA).read_text())
        if not 0 < int(episodes["total_episodes"]) <= _MOST_READ:
            return None
        if episodes["data_format"] == "arrow":
            files = (folder / str(index) / METADATA for index in range(int(episodes["total_episodes"])))
            return tuple(int(json.loads(file.read_text())["total_steps"]) + 1 for file in files)
        import h5py

        with h5py.File(folder / "main_data.hdf5") as file:
            return tuple(int(file[f"episode_{index}/rewards"].shape[0]) + 1 for index in range(int(episodes["total_episodes"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
