"""Lossless episodes in Minari datasets: HDF5 without JPEG, with frames compressed by gzip (plain Minari reads them).

By default, Minari stores uint8 frames as JPEG, which changes half of the pixels. Its own writer cannot compress, so this module writes the
arrays in Minari's layout, and Minari reads them like its own. Atari frames take about 2.5 MB per 10,000 (123 MB raw). Datasets are read
through MinariStorage, which builds no environment if the metadata names both spaces. This module refuses metadata that does not.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from minari.dataset.minari_storage import MinariStorage

from diamond_bench.data.foreign import IMAGINED_BY, read_metadata
from diamond_bench.errors import UserError
from diamond_bench.spaces import WorldSpec

MAIN_FILE = "main_data.hdf5"
_CHUNK = 32
"""Maximum number of frames that are compressed together: a third smaller than single frames, and faster."""
_CHUNK_BYTES = 2**20
"""Maximum size of a chunk before compression in bytes. A chunk is the smallest unit that can be read. Frames of up to 104 x 104 pixels are
stored in chunks of 32."""


@dataclass(frozen=True)
class Episode:
    """T steps of one game. Step t consists of frame t, action t, reward t and then frame t + 1."""

    frames: npt.NDArray[np.uint8]
    """(T + 1, h, w, 3) RGB. The last one is the final observation."""
    actions: npt.NDArray[Any]
    """(T,) int64 if Discrete, else (T, k) int64 or float32 (`ActionSpec`)."""
    rewards: npt.NDArray[np.float32] | None
    """(T,), raw. None if the game has no rewards."""
    terminated: bool
    """The game was over after the last step."""
    truncated: bool
    """The episode was truncated after the last step: by a time limit, or to reach a number of frames."""
    life_losses: npt.NDArray[np.bool_] | None = None
    """(T,): a life was lost during the step, and the episode went on. None if unknown."""
    ram: npt.NDArray[np.uint8] | None = None
    """(T + 1, 128): the console's memory at each frame. None if unknown."""
    seed: int | None = None

    def cut(self, num_frames: int) -> "Episode":
        """The first `num_frames` frames, marked as truncated. The episode itself if it has no more."""
        if num_frames >= len(self.frames):
            return self
        steps = num_frames - 1
        return replace(
            self,
            frames=self.frames[:num_frames],
            actions=self.actions[:steps],
            rewards=None if self.rewards is None else self.rewards[:steps],
            terminated=False,
            truncated=True,
            life_losses=None if self.life_losses is None else self.life_losses[:steps],
            ram=None if self.ram is None else self.ram[:num_frames],
        )


def write_episode(group: h5py.Group, episode: Episode, imagined_by: str | None = None) -> None:
    """Stores an episode in Minari's layout. As in Minari's collector, infos have T + 1 entries, the first from the reset.

    Minari needs rewards: an episode without them stores NaN in their place.

    `imagined_by`: what imagined all frames after the first one, such as a job's id, not empty. It is an info, because Minari keeps infos
    when it copies or joins datasets, and the bytes of its text, because Minari's other format has no text. None for a real game.
    """
    steps = len(episode.actions)
    group.attrs["total_steps"] = steps
    if episode.seed is not None:
        group.attrs["seed"] = episode.seed
    last = np.arange(steps) == steps - 1
    _compressed(group, "observations", episode.frames)
    group.create_dataset("actions", data=episode.actions)
    group.create_dataset("rewards", data=np.full(steps, np.nan, np.float32) if episode.rewards is None else episode.rewards)
    group.create_dataset("terminations", data=last & episode.terminated)
    group.create_dataset("truncations", data=last & episode.truncated)
    infos = group.create_group("infos")
    if episode.life_losses is not None:
        infos.create_dataset("life_loss", data=np.concatenate([[False], episode.life_losses]))
    if episode.ram is not None:
        _compressed(infos, "ram", episode.ram)
    if imagined_by is not None:
        name = np.frombuffer(imagined_by.encode(), np.uint8)
        _compressed(infos, IMAGINED_BY, np.concatenate([np.zeros((1, len(name)), np.uint8), np.tile(name, (steps, 1))]))


def _compressed(group: h5py.Group, name: str, data: npt.NDArray[np.uint8]) -> None:
    rows = max(1, min(_CHUNK, len(data), _CHUNK_BYTES // math.prod(data.shape[1:])))
    chunks = (rows, *data.shape[1:])
    group.create_dataset(name, data=data, chunks=chunks, compression="gzip", compression_opts=1)


def write_dataset(
    data_folder: Path, dataset_id: str, files: Iterable[Path], group: str, spec: WorldSpec, more: Mapping[str, Any] | None = None
) -> None:
    """Combines episodes into a Minari dataset at `data_folder`, which must not exist. Its parents are created.

    Each of `files` contains one episode in the HDF5 group `group` (from `write_episode`). Compressed bytes are copied unchanged, so equal
    episodes give an equal file. `more`: further metadata.
    """
    data_folder = data_folder.absolute()  # Minari measures the size of an absolute folder only
    data_folder.parent.mkdir(parents=True, exist_ok=True)
    frames = spaces.Box(0, 255, (*spec.frames.sides, 3), np.uint8)
    storage = MinariStorage.new(data_folder, frames, spec.actions.space(), data_format="hdf5", jpeg_encoding=False)
    total_steps = total_episodes = 0
    with h5py.File(data_folder / MAIN_FILE, "w", track_order=True) as target:
        for path in files:
            with h5py.File(path, "r") as source:
                source.copy(source[group], target, name=f"episode_{total_episodes}")
            written = target[f"episode_{total_episodes}"]
            written.attrs["id"] = total_episodes
            total_steps += int(written.attrs["total_steps"])
            total_episodes += 1
    facts = {
        "dataset_id": dataset_id,
        "minari_version": minari.__version__,
        "total_episodes": total_episodes,
        "total_steps": total_steps,
        "dataset_size": float(storage.get_size()),
        **{name: False for name, has in (("rewards", spec.rewards), ("ends", spec.ends)) if not has},
        **(more or {}),
    }
    storage.update_metadata(facts)


def open_dataset(data_folder: Path) -> MinariStorage:
    """Opens a Minari dataset of images and actions for reading. Raises UserError if it is something else or damaged, or if its metadata
    exceeds the limits of `read_metadata`."""
    read_metadata(data_folder)
    try:
        return MinariStorage.read(data_folder)
    except Exception as error:  # any exception that a foreign file causes in Minari
        raise UserError(f"{data_folder}: not a readable Minari dataset ({type(error).__name__}: {error})") from error


def read_episode(storage: MinariStorage, index: int) -> dict[str, Any]:
    """An episode as Minari returns it (observations, actions, rewards, terminations, truncations, infos). Raises UserError if it is
    damaged."""
    try:
        return dict(next(iter(storage.get_episodes([index]))))
    except Exception as error:  # h5py, pyarrow and Minari each have their own exceptions
        raise UserError(f"{storage.data_path}: episode {index} cannot be read ({type(error).__name__}: {error})") from error


def read_seeds(data_folder: Path) -> tuple[int | None, ...]:
    """The seed of each episode's first reset, in order. None if `write_episode` received none. Raises UserError if the file is damaged."""
    try:
        with h5py.File(data_folder / MAIN_FILE, "r") as file:
            found = (file[f"episode_{index}"].attrs.get("seed") for index in range(len(file)))
            return tuple(None if seed is None else int(seed) for seed in found)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{data_folder / MAIN_FILE}: damaged ({error}); delete the dataset and make it again") from None


def read_own_episodes(data_folder: Path) -> Iterator[Episode]:
    """The episodes of a dataset written by `write_dataset`, in order."""
    storage = open_dataset(data_folder)
    for index in range(storage.total_episodes):
        stored = read_episode(storage, index)
        infos = stored["infos"] or {}
        rewards = stored["rewards"]
        yield Episode(
            frames=stored["observations"],
            actions=stored["actions"],
            rewards=None if np.isnan(rewards).all() else rewards,
            terminated=bool(stored["terminations"][-1]),
            truncated=bool(stored["truncations"][-1]),
            life_losses=infos["life_loss"][1:] if "life_loss" in infos else None,
            ram=infos.get("ram"),
        )
