"""Recorded play that world models may replay and start from: a dataset's episodes, and an agent's replay."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diamond_bench.config import EnvConfig
from diamond_bench.data.minari_io import read_seeds
from diamond_bench.data.replay import Replay
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import CollectDataset


@dataclass(frozen=True)
class RecordedEpisodes:
    """The held-out episodes of a collected dataset, one recording per episode. A `RecordedPlay`."""

    folder: Path
    """The dataset's."""
    episodes: EpisodeSet
    """On the CPU."""
    game: str
    env: EnvConfig
    seeds: tuple[int | None, ...]
    continues = False

    def name(self, number: int) -> str:
        """See `RecordedPlay.name`."""
        return f"held-out episode {number} of {self.folder}"

    def seed(self, number: int) -> int:
        """See `RecordedPlay.seed`."""
        seed = self.seeds[number]
        if seed is None:
            raise UserError(f"{self.name(number)}: its seed was not recorded, so it cannot be replayed; collect the dataset again")
        return seed

    def action(self, number: int, step: int) -> Any:
        """See `RecordedPlay.action`."""
        return self.episodes.actions[self._row(number, step)].numpy()

    def frame(self, number: int, step: int) -> NDArray[np.uint8]:
        """See `RecordedPlay.frame`."""
        return self.episodes.frames[self._row(number, step)].numpy()

    def _row(self, number: int, step: int) -> int:
        return int(self.episodes.starts[number]) + step


def recorded_episodes(folder: Path, heldout: EpisodeSet) -> RecordedEpisodes | None:
    """The recordings of a dataset in the store. None if it was imported: nobody recorded how to replay it."""
    ref = JobRef(folder.parent.name, folder.name)
    config = Store(folder.parent.parent).spec(ref).config
    if not isinstance(config, CollectDataset):
        return None
    return RecordedEpisodes(folder, heldout, config.game, config.env, read_seeds(folder / "heldout" / "data"))


@dataclass(frozen=True)
class PlayedEpisode(RecordedEpisodes):
    """One episode that was played to start from, and that no dataset holds."""

    def name(self, number: int) -> str:
        """See `RecordedPlay.name`."""
        return f"an episode of {self.game}"


@dataclass
class RecordedReplay:
    """All steps of an agent's only training environment, as one recording. A `RecordedPlay`."""

    game: str
    env: EnvConfig
    first_seed: int
    replay: Replay
    continues: bool = field(default=True, init=False)

    def name(self, number: int) -> str:
        """See `RecordedPlay.name`."""
        return "the agent's replay"

    def seed(self, number: int) -> int:
        """See `RecordedPlay.seed`."""
        return self.first_seed

    def action(self, number: int, step: int) -> Any:
        """See `RecordedPlay.action`."""
        return self.replay.storage.actions[step].cpu().numpy()

    def frame(self, number: int, step: int) -> NDArray[np.uint8]:
        """See `RecordedPlay.frame`."""
        return self.replay.storage.frames[step].cpu().numpy()
