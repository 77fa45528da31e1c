"""The user's own dataset of any format, as the job `import_dataset` reads it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from diamond_bench.config import DataConfig
from diamond_bench.data.action_tables import ActionTable, read_table
from diamond_bench.data.foreign import FRAME_FILES, format_of, held_out, own_files
from diamond_bench.data.foreign_episodes import MinariEpisodes
from diamond_bench.data.frame_files import Places, find_places, read_actions, read_frames
from diamond_bench.data.minari_io import Episode
from diamond_bench.data.pictures import Picture
from diamond_bench.data.videos import fitting, pairs, read_video
from diamond_bench.envs.first_person import ACTIONS
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec


class OwnDataset(Protocol):
    """Episodes that are read one at a time."""

    @property
    def names(self) -> Sequence[str]:
        """A name per episode, for messages."""
        ...

    @property
    def actions(self) -> ActionSpec:
        """The actions of all episodes."""
        ...

    @property
    def rewards(self) -> bool:
        """Whether steps have rewards."""
        ...

    @property
    def ends(self) -> bool:
        """Whether an episode can end by itself."""
        ...

    @property
    def heldout(self) -> Sequence[int] | None:
        """The episodes that the dataset's own list holds out. None if it has no list."""
        ...

    @property
    def training(self) -> Sequence[int] | None:
        """The episodes for training if `heldout` is a list. None takes all that are not in it."""
        ...

    @property
    def num_steps(self) -> int | None:
        """The steps of all episodes as the dataset states them. None if it does not."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """Facts for dataset.json, such as the version of a decoder."""
        ...

    def read(self, index: int, picture: Picture) -> Episode:
        """The episode with each frame converted by `picture`. Raises UserError if it is invalid."""
        ...


class FrameFiles:
    """The episodes of a folder of such files, one per file. See `OwnDataset`."""

    rewards = ends = False
    training = num_steps = None
    facts: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the folder has no such files, or its list of held-out files does not fit."""
        self.folder = folder
        self.files = own_files(folder, (FRAME_FILES,))
        self.names = [path.relative_to(folder).as_posix() for path in self.files]
        self.heldout = held_out(folder, self.files)
        self.actions = ACTIONS
        self._found: Places | None = None
        """The last places, which an import asks for twice."""

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Height and width of all frames: those of the first file."""
        return find_places(self.files[0]).sides

    def places(self, index: int) -> Places:
        """The places of an episode's arrays. Raises UserError if the file is damaged, or its frames are not those of the first file."""
        if self._found is None or self._found.path != self.files[index]:
            self._found = find_places(self.files[index], self.sides)
        return self._found

    def read(self, index: int, picture: Picture) -> Episode:
        """See `OwnDataset.read`. The last action of a file has no next frame, so it is left out."""
        places = self.places(index)
        picture.check(places.path, len(places.frames))
        frames = np.empty((len(places.frames), *picture.frames.sides, 3), np.uint8)
        for i, frame in enumerate(read_frames(places.path, places.sides, places.frames)):
            frames[i] = picture(frame)
        return Episode(frames, read_actions(places)[:-1], None, terminated=False, truncated=True)


class Videos:
    """The episodes of a folder of videos, one per video. See `OwnDataset`."""

    rewards = ends = False
    training = num_steps = None

    def __init__(self, folder: Path) -> None:
        """Raises UserError if a video has no table of actions, or the list of held-out videos does not fit."""
        self.files, self._tables = pairs(folder)
        self.names = [path.relative_to(folder).as_posix() for path in self.files]
        self.heldout = held_out(folder, self.files)
        self.facts = {"decoder": f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"}

    @cached_property
    def actions(self) -> ActionSpec:
        """The actions of all episodes: those of the first table."""
        return read_table(self._tables[0]).actions

    def read(self, index: int, picture: Picture) -> Episode:
        """See `OwnDataset.read`. The action in a table's last row leads to no frame, so it is left out."""
        path, table = self.files[index], fitting(self._tables[index], self.actions, self._tables[0])
        count = len(table.rows)
        picture.check(path, count)
        frames = np.empty((count, *picture.frames.sides, 3), np.uint8)
        found = 0
        for frame in read_video(path, table.rate):
            if found < count:
                frames[found] = picture(frame)
            found += 1
            if found > 2 * count:
                break
        if found != count:
            stated = f"{self._tables[index].name} has {count} rows of actions"
            several = "or more " if found > 2 * count else ""
            raise UserError(f"{path}: it has {found} {several}frames, but {stated}; expected one row per frame")
        return Episode(frames, _array(table, self.actions)[:-1], None, terminated=False, truncated=True)


def _array(table: ActionTable, actions: ActionSpec) -> npt.NDArray[Any]:
    return np.array(table.rows, actions.dtype).reshape(len(table.rows), *actions.shape)


def open_own(folder: Path, data: DataConfig) -> OwnDataset:
    """The dataset in a folder from `find_dataset`. Raises UserError if it is damaged."""
    kind = format_of(folder)
    if kind == "frame_files":
        return FrameFiles(folder)
    if kind == "videos":
        return Videos(folder)
    return MinariEpisodes(folder, data.stacked_frames, data.heldout)
