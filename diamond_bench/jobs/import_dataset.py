"""The job `import_dataset`: converts the user's own Minari dataset to the same artifact as a collected one."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from minari.dataset.minari_storage import MinariStorage

from diamond_bench.config import DataConfig
from diamond_bench.data.foreign import METADATA, Metadata, dataset_digest, find_dataset, read_metadata
from diamond_bench.data.foreign_episodes import check_stored, read_foreign
from diamond_bench.data.leaks import TrainingRuns, spread_windows, window_starts
from diamond_bench.data.minari_io import Episode, open_dataset
from diamond_bench.data.static import spec_facts
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.jobs.dataset_artifact import EpisodeCache, StoredEpisode, finished_result, publish, stop_if_asked
from diamond_bench.spaces import FrameSpec, WorldSpec
from diamond_bench.store.kinds import ImportDataset


def run(config: ImportDataset, context: JobContext) -> Result:
    """Writes train/, heldout/ and dataset.json from the dataset that `data.dataset` names: images of any size, discrete actions.

    Frames are resized by area to frame_size, and grey ones become RGB. Whole episodes, in an order drawn by data.seed, form the held-out
    split until they contain num_references windows that occur in no other episode. The training split takes num_train_frames frames from
    the rest. With data.windows_per_episode, at most that many windows of an episode are references.

    The environment is never built and nothing is downloaded. Raises Interrupted with converted episodes kept. Raises UserError, with
    nothing kept, if the dataset is damaged, changed since it was planned, of another kind, contradicts its metadata, contains an episode
    twice, or has too few episodes.
    """
    return finished_result(context) or _import(config, context)


def _import(config: ImportDataset, context: JobContext) -> Result:
    data = config.data
    if data.dataset is None:
        raise UserError("data.dataset is not set: nothing to import")
    folder = find_dataset(data.dataset)
    if dataset_digest(folder) != config.digest:
        raise UserError(f"{folder} has changed since the study was planned: run the command again")
    storage, metadata = open_dataset(folder), read_metadata(folder)
    check_stored(folder, metadata)
    cache = EpisodeCache(context)
    try:
        facts, train, heldout = _converted(config, folder, storage, metadata, cache, context)
    except UserError:
        cache.discard()
        raise
    return publish(context, "imported", _spec(config, metadata), facts, train, heldout)


def _spec(config: ImportDataset, metadata: Metadata) -> WorldSpec:
    return WorldSpec(FrameSpec.square(config.env.frame_size), metadata.actions)


def _converted(
    config: ImportDataset, folder: Path, storage: MinariStorage, metadata: Metadata, cache: EpisodeCache, context: JobContext
) -> tuple[dict[str, Any], list[StoredEpisode], list[StoredEpisode]]:
    """The content of dataset.json, and the episodes of the two splits."""
    data, total = config.data, metadata.num_episodes
    episodes: list[StoredEpisode] = []
    for index in range(total):
        stop_if_asked(context)
        episodes.append(cache.get(f"episode_{index:05d}", partial(_convert, storage, metadata, index, config)))
        context.progress(index + 1, total, f"episode {index}")
    steps = sum(len(episode.pairs) for episode in episodes)
    if steps != metadata.num_steps:
        raise UserError(f"{folder}: its episodes have {steps} steps, but {METADATA} says {metadata.num_steps}")
    _refuse_duplicates(folder, episodes)

    order = np.random.default_rng(data.seed).permutation(total).tolist()
    num_heldout, starts, refused = _split([episodes[i] for i in order], data)
    train: list[StoredEpisode] = []
    left = data.num_train_frames
    for index in order[num_heldout:]:
        episode = episodes[index]
        if left < 2:  # a single frame is no step
            break
        if episode.num_frames > left:
            episode = cache.get(f"cut_{index:05d}", partial(_convert, storage, metadata, index, config, left))
        train.append(episode)
        left -= episode.num_frames
    facts = {
        "source": config.digest,
        **spec_facts(_spec(config, metadata)),
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
    return facts, train, [episodes[i] for i in order[:num_heldout]]


def _convert(
    storage: MinariStorage, metadata: Metadata, index: int, config: ImportDataset, most: int | None = None
) -> tuple[Episode, bool]:
    """An episode with square RGB frames, truncated at `most` frames, and whether it is whole. Raises UserError if the episode is
    invalid."""
    read = read_foreign(storage, metadata, index, config.data.stacked_frames)
    episode = replace(read, frames=np.stack([_square_rgb(frame, config.env.frame_size) for frame in read.frames]))
    return (episode, True) if most is None else (episode.cut(most), False)


def _square_rgb(frame: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    image = np.ascontiguousarray(frame)
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
    """The number of episodes that contain `num_references` usable windows, the windows' first rows, and the number of windows refused as
    leaks."""
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
        f"the dataset's {len(episodes)} episodes hold {usable or possible} usable held-out windows of {window} frames, with at least one "
        f"episode left to train on, but {num_references} are needed: lower data.num_references or data.reference_horizon, "
        f"{'' if data.windows_per_episode is None else 'raise data.windows_per_episode, '}or bring more episodes"
    )


def _refuse_contained(training: TrainingRuns, heldout: Sequence[StoredEpisode]) -> None:
    for episode in heldout:
        if training.holds(episode.pairs):
            raise UserError(
                f"{episode.path.stem} of the dataset occurs as a part of another episode; a held-out episode must not occur in training"
            )
