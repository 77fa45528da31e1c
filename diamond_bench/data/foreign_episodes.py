"""Episodes of the user's own Minari dataset, checked against its metadata. Conversions keep all values, except that rewards and continuous
actions become float32."""

import io
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import numpy.typing as npt
from minari.dataset.minari_storage import MinariStorage
from PIL import Image

from diamond_bench.data.foreign import IMAGINED_BY, METADATA, PLAYED_GAME, TRAIN, Metadata, imagined, read_metadata
from diamond_bench.data.minari_io import MAIN_FILE, Episode, open_dataset, read_episode
from diamond_bench.data.pictures import MAX_EPISODE_BYTES, Picture
from diamond_bench.errors import UserError

_MAX_ARRAYS = 1000
"""Maximum number of arrays and groups of one episode, including infos."""
_COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations")


class MinariEpisodes:
    """The episodes of a Minari dataset. Implements `own.OwnDataset`."""

    def __init__(self, folder: Path, stacked: str, set_name: str | None = None) -> None:
        """Raises UserError if the dataset is damaged, or contradicts its metadata.

        Args:
            folder: the data folder.
            stacked: see `read_foreign`.
            set_name: the set of episodes that is held out. None lets the caller draw episodes.
        """
        self._storage, self._metadata, self._stacked = open_dataset(folder), read_metadata(folder), stacked
        check_stored(folder, self._metadata)
        self.names = [f"episode {index}" for index in range(self._metadata.num_episodes)]
        self.actions, self.num_steps = self._metadata.actions, self._metadata.num_steps
        self.rewards, self.ends = self._metadata.rewards, self._metadata.ends
        self.heldout = self._metadata.set_of(set_name) if set_name is not None else None
        self.training = self._metadata.set_of(TRAIN) if set_name is not None else None
        self.facts = {} if self._metadata.game is None else {PLAYED_GAME: self._metadata.game}

    def read(self, index: int, picture: Picture) -> Episode:
        """See `OwnDataset.read`."""
        episode = read_foreign(self._storage, self._metadata, index, self._stacked)
        return replace(episode, frames=np.stack([picture(frame) for frame in episode.frames]))


def check_stored(folder: Path, metadata: Metadata) -> None:
    """Checks what is known before an episode is read: the number of episodes and, in HDF5, the size of each and that it lies in this file.

    Raises UserError with the episode's number.
    """
    if metadata.data_format != "hdf5":
        _check_number(folder, sum(1 for _ in folder.glob(f"*/{METADATA}")), metadata)
        return
    try:
        with h5py.File(folder / MAIN_FILE, "r") as file:
            _check_number(folder, len(file), metadata)
            for index in range(metadata.num_episodes):
                _check_group(f"{folder}: episode {index}", file, f"episode_{index}", metadata)
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # h5py's errors for a damaged file
        raise UserError(f"{folder}: {MAIN_FILE} cannot be read ({error})") from None


def _check_number(folder: Path, found: int, metadata: Metadata) -> None:
    if found != metadata.num_episodes:
        raise UserError(f"{folder}: it holds {found} episodes, but {METADATA} says {metadata.num_episodes}")


def _check_group(where: str, parent: h5py.Group, name: str, metadata: Metadata) -> None:
    waiting, arrays, size = [(parent, name, "")], 0, 0
    while waiting:
        group, name, path = waiting.pop()
        arrays += 1
        link = group.get(name, getlink=True)
        if link is None:
            raise UserError(f"{where} is missing")
        item = group[name] if isinstance(link, h5py.HardLink) else None
        if item is None or (isinstance(item, h5py.Dataset) and (item.is_virtual or item.external)):
            what = f"its array {path!r}" if path else "it"
            raise UserError(f"{where}: {what} lies outside of {MAIN_FILE}; only data in that file is imported")
        if isinstance(item, h5py.Group):
            waiting += [(item, inner, f"{path}/{inner}".lstrip("/")) for inner in item]
        elif isinstance(item, h5py.Dataset):
            size += item.size * item.dtype.itemsize
            if path == "observations" and metadata.jpeg and item.ndim and len(item) and h5py.check_vlen_dtype(item.dtype):
                size += len(item) * math.prod(metadata.frame_shape)
                _check_jpeg(where, item[0], metadata)
        if arrays > _MAX_ARRAYS or size > MAX_EPISODE_BYTES:
            raise UserError(f"{where} is too large: more than {MAX_EPISODE_BYTES:,} bytes, or {_MAX_ARRAYS} arrays")


def _check_jpeg(where: str, data: npt.NDArray[np.uint8], metadata: Metadata) -> None:
    """Checks the size in the first image's header, before a decoder allocates memory for it."""
    try:
        width, height = Image.open(io.BytesIO(data.tobytes())).size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: its observations are no JPEG images ({error})") from None
    if (height, width) != metadata.frame_shape[:2]:
        raise UserError(f"{where}: its observations are {height} x {width} pixels, but {METADATA} says {metadata.frame_shape}")


def read_foreign(storage: MinariStorage, metadata: Metadata, index: int, stacked: str) -> Episode:
    """Reads an episode that matches the metadata: frames (T + 1, h, w, 1 or 3), actions from 0, finite rewards, one end.

    `stacked`: how to treat three grey frames in place of colours (data.stacked_frames). Raises UserError with the episode's number.
    """
    where = f"{storage.data_path}: episode {index}"
    stored = read_episode(storage, index)
    if IMAGINED_BY in (stored.get("infos") or {}):
        by = np.ravel(np.asarray(stored["infos"][IMAGINED_BY])[-1:])
        raise imagined(where, bytes(by.astype(np.uint8)).decode(errors="replace") if by.dtype.kind in "iu" else "a world model")
    frames, actions, rewards, *ends = (_array(where, name, stored.get(name)) for name in _COLUMNS)
    if metadata.actions.kind == "Discrete" and actions.ndim == 2 and actions.shape[1] == 1:
        actions = actions[:, 0]
    steps = len(actions)
    if steps < 1 or len(frames) != steps + 1 or len(rewards) != steps:
        raise UserError(
            f"{where} has {len(frames)} observations and {len(rewards)} rewards for {steps} actions; "
            f"expected one observation more than actions"
        )
    if frames.dtype != np.uint8 or frames.shape[1:] != metadata.frame_shape:
        raise UserError(
            f"{where}: its observations are {frames.dtype} {frames.shape[1:]}, but {METADATA} says uint8 {metadata.frame_shape}"
        )
    shape, continuous = metadata.actions.shape, metadata.actions.kind == "Box"
    if actions.shape[1:] != shape or actions.dtype.kind not in ("fiu" if continuous else "iu"):
        each = f"{shape[0]} numbers" if continuous else f"{shape[0]} whole numbers" if shape else "a whole number"
        _refuse(where, "actions", actions, np.ones(steps, np.bool_), f"expected {each} per step")
    for name, array, kinds, expected in (
        ("rewards", rewards, "biuf", "numbers"),
        ("terminations", ends[0], "biu", "true or false"),
        ("truncations", ends[1], "biu", "true or false"),
    ):
        if array.shape != (steps,) or array.dtype.kind not in kinds:
            _refuse(where, name, array, np.ones(len(array), np.bool_), f"expected {steps} {expected}")
    ours = _checked_actions(where, actions, metadata)
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, and is refused
        narrow = rewards.astype(np.float32)
    if metadata.rewards:
        _refuse_any(where, "rewards", rewards, ~np.isfinite(narrow), "expected finite numbers")
    else:
        _refuse_any(where, "rewards", rewards, ~np.isnan(narrow), f"expected NaN, since {METADATA} says that there are no rewards")
    for name, flags in zip(("terminations", "truncations"), ends, strict=True):
        _refuse_any(where, name, flags, (flags != 0) & (flags != 1), "expected true or false")
    over = ends[0].astype(np.bool_) | ends[1].astype(np.bool_)
    if over[:-1].any():
        raise UserError(f"{where} goes on after its end at step {int(over.argmax())}")
    terminated = bool(ends[0][-1])
    given = narrow if metadata.rewards else None
    return Episode(_channels_last(where, frames, stacked), ours, given, terminated=terminated, truncated=not terminated)


def _checked_actions(where: str, actions: npt.NDArray[Any], metadata: Metadata) -> npt.NDArray[Any]:
    """Converts actions to the form of an `ActionSpec`: from 0, or float32."""
    spec = metadata.actions
    found: npt.NDArray[Any]
    outside: npt.NDArray[np.bool_]
    if spec.kind == "Box":
        with np.errstate(over="ignore"):
            found = actions.astype(np.float32)
        outside = np.logical_not(np.logical_and(found >= spec.low, found <= spec.high))  # NaN lies outside
        low, high = spec.low, spec.high
    else:
        first = np.array(metadata.first_action, np.int64)
        last = first + np.array(spec.sizes) - 1
        outside = np.logical_or(actions < first, actions > last)
        found = actions.astype(np.int64) - first
        low, high = tuple(first.tolist()), tuple(last.tolist())
    bounds = f"{low[0]} to {high[0]}" if len(low) == 1 else f"{str(low)[:60]} to {str(high)[:60]}"
    _refuse_any(where, "actions", actions, np.any(outside.reshape(len(actions), -1), axis=1), f"outside its action space, {bounds}")
    return found


def _array(where: str, name: str, values: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        array = np.asarray(None)
    if not array.ndim:
        raise UserError(f"{where}: its {name} are no array")
    return array


def _refuse_any(where: str, name: str, array: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], expected: str) -> None:
    if wrong.any():
        _refuse(where, name, array, wrong, expected)


def _refuse(where: str, name: str, array: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], expected: str) -> NoReturn:
    step = int(wrong.argmax())
    shown = f", such as {str(array[step])[:40]} at step {step}" if len(array) else ""
    raise UserError(f"{where}: its {name} are {array.dtype} {array.shape}{shown}; {expected}")


def _channels_last(where: str, frames: npt.NDArray[np.uint8], stacked: str) -> npt.NDArray[np.uint8]:
    """(T + 1, h, w, 1 or 3). Of three stacked grey frames, only the newest."""
    if frames.ndim == 3:
        frames = frames[..., None]
    elif frames.shape[3] not in (1, 3):
        frames = np.moveaxis(frames, 1, 3)
    newest = _newest_channel(frames) if frames.shape[3] == 3 else None
    if stacked == "newest":
        if newest is None:
            raise UserError(f"{where} is not three stacked grey frames; leave data.stacked_frames=newest out")
        return frames[..., [newest]]
    differing = (frames[1:, ..., 1:] != frames[1:, ..., :-1]).any(axis=(1, 2, 3)).sum() if newest is not None else 0
    if differing > 1:  # one such frame may be a flash of colour on a still picture
        raise UserError(
            f"{where}: its channels are three stacked grey frames, not colours: each observation repeats two of the previous one. "
            "data.stacked_frames=newest takes the newest of the three"
        )
    return frames


def _newest_channel(frames: npt.NDArray[np.uint8]) -> int | None:
    """The channel with the newest frame if each observation (h, w, 3) repeats two channels of the previous one, shifted by one. Otherwise
    None."""
    for newest, kept, repeated in ((2, slice(1, 3), slice(0, 2)), (0, slice(0, 2), slice(1, 3))):
        if all(np.array_equal(after[..., repeated], before[..., kept]) for before, after in itertools.pairwise(frames)):
            return newest
    return None
