"""Shared code of the two jobs that create datasets: episodes are kept one by one, then published together as an artifact."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diamond_bench.data.leaks import Hashes, pair_hashes
from diamond_bench.data.linked import LinkedEpisode
from diamond_bench.data.minari_io import Episode, write_dataset, write_episode
from diamond_bench.data.static import INFO_FILE
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.spaces import WorldSpec
from diamond_bench.store.files import read_json, temporary_name, write_json

_GROUP = "episode"
_PARTIAL = "partial"


@dataclass(frozen=True)
class StoredEpisode:
    """An episode in the cache: the properties that jobs need, without its frames."""

    path: Path
    pairs: Hashes
    total_return: float | None
    """None if the game has no rewards."""
    lives_lost: int | None
    whole: bool
    """Whether it ended by itself, and was not truncated to reach a number of frames."""

    @property
    def num_frames(self) -> int:
        """T + 1."""
        return len(self.pairs) + 1


class EpisodeCache:
    """Episodes kept in the job's folder by name, each whole or absent, so that an interrupted job continues with the next one."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._folder = context.folder / _PARTIAL
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, make: Callable[[], tuple[Episode, bool]]) -> StoredEpisode:
        """The episode of that name: kept by an earlier attempt, or created now (make() -> episode, whether it is whole) and kept."""
        return self._get(name, make, write_episode)

    def get_linked(self, name: str, make: Callable[[], tuple[Episode, bool]], file: str, offsets: npt.NDArray[np.int64]) -> StoredEpisode:
        """As `get`, for an episode whose frames stay in a file of the user's: keeps their places, `offsets` (n,) with n from T + 1."""

        def write(group: h5py.Group, episode: Episode) -> None:
            group.attrs["file"] = file
            group["offsets"], group["actions"] = offsets[: len(episode.frames)], episode.actions

        return self._get(name, make, write)

    def _get(
        self, name: str, make: Callable[[], tuple[Episode, bool]], write: Callable[[h5py.Group, Episode], None]
    ) -> StoredEpisode:  # fmt: skip
        path = self._folder / f"{name}.h5"
        if path.exists():
            try:
                return self._look_up(path)
            except (OSError, KeyError) as error:
                self._context.say(f"{path} is damaged ({error}); creating it again")
        episode, whole = make()
        temporary = temporary_name(path)
        with h5py.File(temporary, "w") as file:
            write(file.create_group(_GROUP), episode)
            file["pairs"] = pair_hashes(episode.frames, episode.actions)
            file.attrs["return"] = math.nan if episode.rewards is None else float(episode.rewards.sum(dtype=np.float64))
            file.attrs["lives_lost"] = -1 if episode.life_losses is None else int(episode.life_losses.sum())
            file.attrs["whole"] = whole
        temporary.replace(path)
        return self._look_up(path)

    def discard(self) -> None:
        """Removes all kept episodes."""
        shutil.rmtree(self._folder)

    def _look_up(self, path: Path) -> StoredEpisode:
        with h5py.File(path, "r") as file:
            lost, total_return = int(file.attrs["lives_lost"]), float(file.attrs["return"])
            return StoredEpisode(
                path=path,
                pairs=file["pairs"][()],
                total_return=None if math.isnan(total_return) else total_return,
                lives_lost=None if lost < 0 else lost,
                whole=bool(file.attrs["whole"]),
            )


def stop_if_asked(context: JobContext) -> None:
    """Raises Interrupted if the job was asked to stop."""
    if context.should_stop():
        raise Interrupted("stopped while making episodes; finished ones are kept")


def link_of(stored: StoredEpisode) -> LinkedEpisode:
    """What `EpisodeCache.get_linked` kept."""
    with h5py.File(stored.path, "r") as file:
        group = file[_GROUP]
        return LinkedEpisode(str(group.attrs["file"]), group["offsets"][()], group["actions"][()])


def publish(
    context: JobContext,
    dataset_name: str,
    spec: WorldSpec,
    facts: dict[str, Any],
    train: Sequence[StoredEpisode],
    heldout: Sequence[StoredEpisode],
    link: Callable[[Path], None] | None = None,
) -> Result:
    """Writes train/ and heldout/ under temporary names, renames them, and then writes dataset.json, which marks the artifact as complete.

    `link`: writes the training split to a folder if its frames stay in the user's files.
    """
    splits = {"train": train, "heldout": heldout}
    temporary = {split: context.folder / f".{split}.tmp" for split in splits}
    for split, episodes in splits.items():
        shutil.rmtree(temporary[split], ignore_errors=True)
        if split == "train" and link is not None:
            link(temporary[split])
            continue
        write_dataset(
            temporary[split] / "data",
            f"diamond_bench/{dataset_name}-{split}-v0",
            [episode.path for episode in episodes],
            _GROUP,
            spec,
        )
    context.check_owner()
    for split in splits:
        shutil.rmtree(context.folder / split, ignore_errors=True)
        temporary[split].rename(context.folder / split)
    whole = _returns((*train, *heldout))
    content = {
        **facts,
        "train": _counts(train),
        "heldout": {**facts["heldout"], **_counts(heldout)},
        "mean_return": float(np.mean(whole)) if whole else None,
    }
    write_json(context.folder / INFO_FILE, content)
    finished = finished_result(context)
    assert finished is not None
    return finished


def finished_result(context: JobContext) -> Result | None:
    """The result of an attempt that wrote dataset.json, after removal of its temporary files. None if there was none."""
    try:
        content = read_json(context.folder / INFO_FILE)
    except FileNotFoundError:
        return None
    shutil.rmtree(context.folder / _PARTIAL, ignore_errors=True)
    mean_return = content["mean_return"]
    rows = [] if mean_return is None else [Row("dataset_return", mean_return)]
    return Result(rows, content)


def _counts(episodes: Sequence[StoredEpisode]) -> dict[str, Any]:
    whole = _returns(episodes)
    lost = [episode.lives_lost for episode in episodes]
    return {
        "episodes": len(episodes),
        "frames": sum(episode.num_frames for episode in episodes),
        "whole_games": sum(episode.whole for episode in episodes),
        "mean_return": float(np.mean(whole)) if whole else None,
        "lives_lost": None if None in lost else sum(number for number in lost if number is not None),
    }


def _returns(episodes: Sequence[StoredEpisode]) -> list[float]:
    """For the whole games, if there are any."""
    return [episode.total_return for episode in episodes if episode.whole and episode.total_return is not None]
