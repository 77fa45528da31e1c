"""The job `import_dataset`: converts the user's own dataset to the same artifact as a collected one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diamond_bench.config import DataConfig
from diamond_bench.data.foreign import METADATA, dataset_digest, find_dataset
from diamond_bench.data.foreign_lengths import listed_in
from diamond_bench.data.leaks import TrainingRuns, spread_windows, window_starts
from diamond_bench.data.linked import write_linked
from diamond_bench.data.minari_io import Episode
from diamond_bench.data.own import FrameFiles, OwnDataset, open_own
from diamond_bench.data.pictures import Picture
from diamond_bench.data.static import spec_facts
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.jobs.dataset_artifact import EpisodeCache, StoredEpisode, finished_result, link_of, publish, stop_if_asked
from diamond_bench.spaces import WorldSpec
from diamond_bench.store.kinds import ImportDataset


def run(config: ImportDataset, context: JobContext) -> Result:
    """Writes train/, heldout/ and dataset.json from the dataset that `data.dataset` names: images of any size and their actions.

    Frames are resized by area to `env.frames`, and grey ones become RGB. Whole episodes, in an order drawn by data.seed, form the held-out
    split until they contain num_references windows that occur in no other episode. If the dataset has a list of held-out episodes, or
    data.heldout names a set of its episodes, they come from this list alone. The training split takes num_train_frames frames from the
    rest. With data.windows_per_episode, at most that many windows of an episode are references. With data.link_frames, train/ only states
    where its frames lie in the user's files.

    The environment is never built and nothing is downloaded. Raises Interrupted with converted episodes kept. Raises UserError, with
    nothing kept, if the dataset is damaged, changed since it was planned, of another kind, contradicts its metadata, contains an episode
    twice, or has too few episodes.
    """
    return finished_result(context) or _import(config, context)


def _import(config: ImportDataset, context: JobContext) -> Result:
    if config.data.dataset is None:
        raise UserError("data.dataset is not set: nothing to import")
    folder = find_dataset(config.data.dataset)
    if dataset_digest(folder) != config.digest:
        raise UserError(f"{folder} has changed since the study was planned: run the command again")
    own = open_own(folder, config.data)
    spec = WorldSpec(config.env.frames, own.actions, own.rewards, own.ends)
    cache = EpisodeCache(context)
    try:
        facts, train, heldout = _Conversion(config, folder, own, cache, context).splits()
    except UserError:
        cache.discard()
        raise
    link = None
    if isinstance(own, FrameFiles) and config.data.link_frames:
        episodes = [link_of(episode) for episode in train]
        link = partial(
            write_linked, folder=folder, digest=config.digest, stored=own.sides, frames=config.env.frames, episodes=episodes
        )  # fmt: skip
    return publish(context, "imported", spec, {"source": config.digest, **spec_facts(spec), **own.facts, **facts}, train, heldout, link)


@dataclass(frozen=True)
class _Heldout:
    """The held-out episodes of a split."""

    count: int
    """How many episodes, from the first one on."""
    starts: list[int]
    """First rows of their usable windows."""
    refused: int
    """Number of windows that are leaks."""


class _Conversion:
    """Reads the episodes that the two splits need, one at a time."""

    def __init__(self, config: ImportDataset, folder: Path, own: OwnDataset, cache: EpisodeCache, context: JobContext) -> None:
        self._config, self._folder, self._own, self._cache, self._context = config, folder, own, cache, context
        self._picture = Picture(config.env.frames)
        self._read: dict[int, StoredEpisode] = {}
        """Whole episodes, by their number in the dataset."""

    def splits(self) -> tuple[dict[str, Any], list[StoredEpisode], list[StoredEpisode]]:
        """The content of dataset.json, and the episodes of the two splits."""
        data, total = self._config.data, len(self._own.names)
        order = np.random.default_rng(data.seed).permutation(total).tolist()
        if self._own.heldout is None:
            episodes = {index: self._training(index) for index in range(total)}
            self._check_steps(episodes.values())
            self._refuse_duplicates()
            found = _split([episodes[index] for index in order], data)
            heldout, train = order[: found.count], self._train(order[found.count :])
        else:
            listed, named = set(self._own.heldout), self._own.training
            train = self._train([index for index in order if (index not in listed if named is None else index in named)])
            heldout = [index for index in order if index in listed]
            found = self._listed(train, heldout)
            self._refuse_duplicates()
        facts = {
            "lost_life": "as in the source",
            "heldout": {
                "references": len(found.starts),
                "reference_starts": found.starts,
                "refused_as_leaks": found.refused,
                "reference_context": data.reference_context,
                "reference_horizon": data.reference_horizon,
                **({} if data.heldout is None else {"set": data.heldout}),
                **({} if data.windows_per_episode is None else {"windows_per_episode": data.windows_per_episode}),
            },
        }
        return facts, train, [self._copied(index) for index in heldout[: found.count]]

    def _train(self, order: Sequence[int]) -> list[StoredEpisode]:
        """The first `num_train_frames` frames of episodes in this order."""
        train: list[StoredEpisode] = []
        left = self._config.data.num_train_frames
        for index in order:
            if left < 2:  # a single frame is no step
                break
            episode = self._training(index)
            if episode.num_frames > left:
                episode = self._training(index, left)
            train.append(episode)
            left -= episode.num_frames
        return train

    def _listed(self, train: Sequence[StoredEpisode], order: Sequence[int]) -> _Heldout:
        """The fewest first episodes of those in the dataset's own list with `num_references` usable windows. Raises UserError."""
        data, heldout, possible = self._config.data, list[StoredEpisode](), 0
        training = TrainingRuns([episode.pairs for episode in train])
        for index in order:
            heldout.append(self._copied(index))
            possible += _possible(heldout[-1], data)
            if possible < data.num_references and len(heldout) < len(order):
                continue
            found = _windows(training, heldout, data)
            if len(found.starts) >= data.num_references:
                _refuse_contained(training, heldout)
                return found
        raise _too_few(f"the {len(order)} episodes of {listed_in(data.heldout)} hold", len(found.starts), data)

    def _training(self, index: int, most: int | None = None) -> StoredEpisode:
        """An episode for training, of at most `most` frames. If frames are linked, only their places are kept."""
        own = self._own
        if not isinstance(own, FrameFiles) or not self._config.data.link_frames:
            return self._copied(index, most)
        places = own.places(index)
        name = f"linked_{index:05d}" if most is None else f"linked_cut_{index:05d}"
        return self._kept(index, most, lambda make: self._cache.get_linked(name, make, own.names[index], places.frames))

    def _copied(self, index: int, most: int | None = None) -> StoredEpisode:
        name = f"episode_{index:05d}" if most is None else f"cut_{index:05d}"
        return self._kept(index, most, lambda make: self._cache.get(name, make))

    def _kept(self, index: int, most: int | None, keep: Callable[[Callable[[], tuple[Episode, bool]]], StoredEpisode]) -> StoredEpisode:
        stop_if_asked(self._context)
        found = keep(partial(self._convert, index, most))
        if most is None:
            self._read[index] = found
            self._context.progress(len(self._read), len(self._own.names), self._own.names[index])
        return found

    def _convert(self, index: int, most: int | None) -> tuple[Episode, bool]:
        """An episode, truncated at `most` frames, and whether it is whole. Raises UserError if the episode is invalid."""
        episode = self._own.read(index, self._picture)
        return (episode, True) if most is None else (episode.cut(most), False)

    def _check_steps(self, episodes: Iterable[StoredEpisode]) -> None:
        steps = sum(len(episode.pairs) for episode in episodes)
        if self._own.num_steps not in (None, steps):
            raise UserError(f"{self._folder}: its episodes have {steps} steps, but {METADATA} says {self._own.num_steps}")

    def _refuse_duplicates(self) -> None:
        seen: dict[bytes, int] = {}
        for index, episode in self._read.items():
            first = seen.setdefault(episode.pairs.tobytes(), index)
            if first != index:
                names = f"{self._own.names[first]} and {self._own.names[index]}"
                raise UserError(f"{self._folder}: {names} are the same; a held-out episode must not occur in training")


def _windows(training: TrainingRuns, heldout: Sequence[StoredEpisode], data: DataConfig) -> _Heldout:
    """The windows of held-out episodes that occur in no training episode."""
    windows = [training.split_windows(episode.pairs, data.reference_context + data.reference_horizon) for episode in heldout]
    taken = [spread_windows(good, data.windows_per_episode, (data.seed, i)) for i, (good, _) in enumerate(windows)]
    rows = np.cumsum([0, *(episode.num_frames for episode in heldout)]).tolist()
    starts = [row + start for row, chosen in zip(rows, taken, strict=False) for start in chosen]
    return _Heldout(len(heldout), starts, sum(len(bad) for _, bad in windows))


def _possible(episode: StoredEpisode, data: DataConfig) -> int:
    """The most windows that an episode can give."""
    there = len(window_starts(episode.num_frames, data.reference_context + data.reference_horizon))
    return there if data.windows_per_episode is None else min(there, data.windows_per_episode)


def _split(episodes: Sequence[StoredEpisode], data: DataConfig) -> _Heldout:
    """The fewest first episodes with `num_references` usable windows. The others are for training. Raises UserError."""
    possible = usable = 0
    for count in range(1, len(episodes)):
        possible += _possible(episodes[count - 1], data)
        if possible < data.num_references:
            continue
        training = TrainingRuns([episode.pairs for episode in episodes[count:]])
        found = _windows(training, episodes[:count], data)
        usable = len(found.starts)
        if usable >= data.num_references:
            _refuse_contained(training, episodes[:count])
            return found
    raise _too_few(f"the dataset's {len(episodes)} episodes hold", usable or possible, data, ", with at least one episode left to train on")


def _too_few(who: str, usable: int, data: DataConfig, condition: str = "") -> UserError:
    window = data.reference_context + data.reference_horizon
    return UserError(
        f"{who} {usable} usable held-out windows of {window} frames{condition}, but {data.num_references} are needed: lower "
        f"data.num_references or data.reference_horizon, "
        f"{'' if data.windows_per_episode is None else 'raise data.windows_per_episode, '}or bring more episodes"
    )


def _refuse_contained(training: TrainingRuns, heldout: Sequence[StoredEpisode]) -> None:
    for episode in heldout:
        if training.holds(episode.pairs):
            raise UserError(
                f"{episode.path.stem} of the dataset occurs as a part of another episode; a held-out episode must not occur in training"
            )
