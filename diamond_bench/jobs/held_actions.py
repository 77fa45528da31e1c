"""Long play under held actions, next to the game's own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diamond_bench.config import EvaluationConfig
from diamond_bench.data.references import Windows
from diamond_bench.data.static import EpisodeSet
from diamond_bench.envs.games import family_of
from diamond_bench.evaluation.fixed_actions import fixed_actions, imagine_held
from diamond_bench.jobs.parts import Arrays, Parts, join
from diamond_bench.metrics.header import held_frames
from diamond_bench.metrics.play import HELD_STREAM, Batch, Tick, window_batch
from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.contract import WorldModel
from diamond_bench.worlds.oracle import Oracle
from diamond_bench.worlds.oracle.world import OracleWorld
from diamond_bench.worlds.oracle.world import open_world as open_game
from diamond_bench.worlds.recordings import recorded_episodes


def playable(dataset: Path, heldout: EpisodeSet, spec: WorldSpec) -> OracleWorld | None:
    """The game of a dataset, which can go on from each recorded place. None if its states cannot be saved, or nobody recorded its seeds.

    `dataset`: its folder. `heldout`: on the CPU.
    """
    play = recorded_episodes(dataset, heldout)
    if play is None or not family_of(play.game).saves:
        return None
    return open_game(Oracle(), spec, torch.device("cpu"), play)


@dataclass(frozen=True)
class HeldPlay:
    """Play of `held_frames` frames from the first `num_sample_starts` references.

    Each start has two rows: under the no-op, and under one other fixed action. The starts take the other actions in turn.
    """

    world: WorldModel
    game: OracleWorld | None
    references: Windows
    settings: EvaluationConfig

    @property
    def starts(self) -> list[range]:
        """The starts of each batch."""
        number, size = self.settings.num_sample_starts, max(1, self.settings.batch_size // 2)
        return [range(first, min(first + size, number)) for first in range(0, number, size)]

    @property
    def ticks(self) -> int:
        """Units of progress."""
        return sum(self._part_ticks(starts) for starts in self.starts)

    def _part_ticks(self, starts: range) -> int:
        """One per imagined batch of frames, and one per game that is played."""
        return held_frames(self.settings) + (self._kinds * len(starts) if self.game is not None else 0)

    @property
    def _kinds(self) -> int:
        """Rows of each start: the no-op, and another action if there is one."""
        return min(2, len(fixed_actions(self.world.spec.actions)))

    def measured(self, measure: Callable[[Batch], Arrays], parts: Parts) -> Arrays:
        """What is measured of every row: see `Measured.held`."""

        def part(starts: range) -> Arrays:
            name = f"held-{starts.start:06d}"
            return parts.get(name, "imagining held actions", self._part_ticks(starts), lambda: self._rows(starts, measure, parts))

        return join([part(starts) for starts in self.starts])

    def _rows(self, starts: range, measure: Callable[[Batch], Arrays], parts: Parts) -> Arrays:
        first, *others = fixed_actions(self.world.spec.actions).values()
        held = [(i, kind, first if kind == 0 else others[i % len(others)]) for i in starts for kind in range(self._kinds)]
        rows, actions = [i for i, _, _ in held], torch.stack([action for _, _, action in held])
        play = window_batch(self.references, rows, 0)
        keys = [(self.settings.seed, HELD_STREAM, i, kind) for i, kind, _ in held]
        batch = Batch("held", play.frames[:, :0], play, rows, keys)
        lengths, found = np.full(len(rows), held_frames(self.settings)), {}
        if self.game is not None:
            frames, lengths = self._truth(self.game, batch, actions, parts.tick)
            true = measure(replace(batch, frames=frames.to(play.frames.device), shown="true", lengths=lengths))
            found = {f"true_{name}": values for name, values in true.items()}
        longest = held_frames(self.settings)
        frames = imagine_held(self.world, play, actions, keys, lengths.tolist(), parts.tick)
        frames = torch.nn.functional.pad(frames, (0, 0, 0, 0, 0, 0, 0, longest - frames.shape[1]))
        own = measure(replace(batch, frames=frames, lengths=lengths))
        return {**own, **found, "lengths": lengths, "idle": np.array([kind == 0 for _, kind, _ in held])}

    def _truth(self, game: OracleWorld, batch: Batch, actions: Tensor, tick: Tick) -> tuple[Tensor, NDArray[np.int64]]:
        """The frames of the game itself (n, T, 3, h, w) uint8 on the CPU, black after its end, and their number (n,)."""
        play = batch.play
        assert play.origin is not None
        frames = np.zeros((len(play), held_frames(self.settings), *play.frames.shape[2:]), np.uint8)
        lengths = np.zeros(len(play), np.int64)
        places: list[tuple[int, int]] = [(number, step) for number, step in play.origin.tolist()]
        for row in sorted(range(len(play)), key=places.__getitem__):  # in order, so that no replay goes back
            held: Iterable[NDArray[np.generic]] = repeat(actions[row].numpy()[()], frames.shape[1])
            for t, (frame, _, _) in enumerate(game.played(places[row], held, batch.keys[row])):
                frames[row, t], lengths[row] = frame, t + 1
            tick()
        return torch.from_numpy(frames), lengths
