"""The job `import_dataset`: somebody's Minari dataset becomes the same artifact as a collected one."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from minari.dataset.minari_storage import MinariStorage

from diamond_bench.config import DataConfig
from diamond_bench.data.foreign import dataset_digest, find_dataset
from diamond_bench.data.leaks import TrainingRuns, spread_windows, window_starts
from diamond_bench.data.minari_io import Episode, open_dataset, read_episode
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.jobs.dataset_artifact import EpisodeShelf, StoredEpisode, finished_result, publish, stop_if_asked
from diamond_bench.studies.kinds import ImportDataset


def run(config: ImportDataset, context: JobContext) -> Result:
    """Writes train/, heldout/ and dataset.json from the dataset `data.dataset` names: images of any size, discrete actions.

    Frames are resized by area to frame_size; grey ones become RGB. Whole episodes go to the held-out split, in an order drawn by
    data.seed, until they hold num_references windows that occur in no other episode; of the rest, num_train_frames frames train. With
    data.windows_per_episode, at most so many windows of an episode are references.
    The environment is never built and nothing is downloaded. Raises Interrupted with converted episodes kept; UserError where
    the dataset is damaged, changed since it was planned, of another kind, holds an episode twice or too few of them.
    """
    return finished_result(context) or _import(config, context)


def _import(config: ImportDataset, context: JobContext) -> Result:
    data = config.data
    if data.dataset is None:
        raise UserError("data.dataset is not set: nothing to import")
    folder = find_dataset(data.dataset)
    if dataset_digest(folder) != config.digest:
        raise UserError(f"{folder} has changed since the study was planned: run the command again")
    storage = open_dataset(folder)
    num_actions, size = _check_spaces(storage), config.env.frame_size
    shelf, total = EpisodeShelf(context), storage.total_episodes
    episodes: list[StoredEpisode] = []
    for index in range(total):
        stop_if_asked(context)
        episodes.append(shelf.get(f"episode_{index:05d}", partial(_convert, storage, index, size)))
        context.progress(index + 1, total, f"episode {index}")
    _refuse_duplicates(folder, episodes)

    order = np.random.default_rng(data.seed).permutation(total).tolist()
    num_heldout, starts, refused = _split([episodes[i] for i in order], data)
    train: list[StoredEpisode] = []
    left = data.num_train_frames
    for index in order[num_heldout:]:
        episode = episodes[index]
        if left < 2:  # a frame alone is no step
            break
        if episode.num_frames > left:
            episode = shelf.get(f"cut_{index:05d}", partial(_convert, storage, index, size, left))
        train.append(episode)
        left -= episode.num_frames
    facts = {
        "source": config.digest,
        "num_actions": num_actions,
        "action_meanings": None,
        "frame_size": size,
        "lost_life": "as in the source",
        "heldout": {
            "references": len(starts),
            "reference_starts": starts,
            "refused_as_leaks": refused,
            "reference_context": config.data.reference_context,
            "reference_horizon": config.data.reference_horizon,
            **({} if data.windows_per_episode is None else {"windows_per_episode": data.windows_per_episode}),
        },
    }
    return publish(context, "imported", facts, train, [episodes[i] for i in order[:num_heldout]])


def _check_spaces(storage: MinariStorage) -> int:
    """The number of actions; UserError unless frames are uint8 images and actions discrete."""
    frames, actions = storage.observation_space, storage.action_space
    if not isinstance(actions, spaces.Discrete):
        raise UserError(f"{storage.data_path}: its actions are {actions}; only discrete actions can be imported")
    shape = frames.shape if isinstance(frames, spaces.Box) and frames.dtype == np.uint8 else None
    if shape is None or not (len(shape) == 2 or (len(shape) == 3 and (shape[2] in (1, 3) or shape[0] in (1, 3)))):
        raise UserError(
            f"{storage.data_path}: its observations are {frames}; expected uint8 images: (h, w), (h, w, 1 or 3) or (1 or 3, h, w)"
        )
    return int(actions.n)


def _convert(storage: MinariStorage, index: int, size: int, most_frames: int | None = None) -> tuple[Episode, bool]:
    """An episode with square RGB frames and actions from 0, cut at `most_frames`, and whether it is whole.

    UserError where it is not a proper episode.
    """
    stored = read_episode(storage, index)
    space = storage.action_space
    assert isinstance(space, spaces.Discrete)
    frames, actions = np.asarray(stored["observations"]), np.asarray(stored["actions"]).reshape(-1).astype(np.int64) - int(space.start)
    where = f"{storage.data_path}: episode {index}"
    steps = len(actions)
    if steps < 1 or len(frames) != steps + 1 or len(stored["rewards"]) != steps:
        raise UserError(
            f"{where} has {len(frames)} observations and {len(stored['rewards'])} rewards for {steps} actions; "
            f"expected one observation more than actions"
        )
    if actions.min() < 0 or actions.max() >= space.n:
        raise UserError(f"{where} has actions outside its action space {space}")
    ends = np.asarray(stored["terminations"]) | np.asarray(stored["truncations"])
    if ends[:-1].any():
        raise UserError(f"{where} goes on after its end at step {int(ends.argmax())}")
    terminated = bool(stored["terminations"][-1])
    episode = Episode(
        frames=np.stack([_square_rgb(frame, size) for frame in frames]),
        actions=actions,
        rewards=np.asarray(stored["rewards"], np.float32),
        terminated=terminated,
        truncated=not terminated,
    )
    return (episode, True) if most_frames is None else (episode.cut(most_frames), False)


def _square_rgb(frame: npt.NDArray[Any], size: int) -> npt.NDArray[np.uint8]:
    if frame.ndim == 3 and frame.shape[2] not in (1, 3):
        frame = frame.transpose(1, 2, 0)
    image = np.ascontiguousarray(frame, np.uint8).reshape(*frame.shape[:2], -1)
    if image.shape[:2] != (size, size):
        image = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8).reshape(size, size, -1)
    return np.broadcast_to(image, (size, size, 3))


def _refuse_duplicates(folder: object, episodes: Sequence[StoredEpisode]) -> None:
    seen: dict[bytes, int] = {}
    for index, episode in enumerate(episodes):
        first = seen.setdefault(episode.pairs.tobytes(), index)
        if first != index:
            raise UserError(f"{folder}: episodes {first} and {index} are the same; a held-out episode must not occur in training")


def _split(episodes: Sequence[StoredEpisode], data: DataConfig) -> tuple[int, list[int], int]:
    """How many of the first episodes hold `num_references` usable windows, their first rows, and how many were refused as leaks."""
    num_references, window = data.num_references, data.reference_context + data.reference_horizon
    possible = usable = 0
    for count in range(1, len(episodes)):
        there = len(window_starts(episodes[count - 1].num_frames, window))
        possible += there if data.windows_per_episode is None else min(there, data.windows_per_episode)
        if possible < num_references:
            continue
        training = TrainingRuns([episode.pairs for episode in episodes[count:]])
        windows = [training.split_windows(episode.pairs, window) for episode in episodes[:count]]
        taken = [spread_windows(good, data.windows_per_episode, (data.seed, i)) for i, (good, _) in enumerate(windows)]
        usable = sum(map(len, taken))
        if usable >= num_references:
            _refuse_contained(training, episodes[:count])
            rows = np.cumsum([0, *(episode.num_frames for episode in episodes[:count])]).tolist()
            starts = [row + start for row, chosen in zip(rows, taken, strict=False) for start in chosen]
            return count, starts, sum(len(bad) for _, bad in windows)
    raise UserError(
        f"the dataset's {len(episodes)} episodes hold {usable or possible} usable held-out windows of {window} frames beside at least one "
        f"episode to train on, {num_references} are needed: lower data.num_references or data.reference_horizon, "
        f"{'' if data.windows_per_episode is None else 'raise data.windows_per_episode, '}or bring more episodes"
    )


def _refuse_contained(training: TrainingRuns, heldout: Sequence[StoredEpisode]) -> None:
    for episode in heldout:
        if training.holds(episode.pairs):
            raise UserError(
                f"{episode.path.stem} of the dataset occurs as a part of another episode; a held-out episode must not occur in training"
            )
