"""Long play under held actions, next to the game's own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import torch

from diamond_bench.config import EvaluationConfig
from diamond_bench.data.references import Windows
from diamond_bench.evaluation.fixed_actions import fixed_actions, imagine_held
from diamond_bench.jobs.parts import Arrays, Parts, join
from diamond_bench.jobs.true_play import true_play
from diamond_bench.metrics.header import held_frames
from diamond_bench.metrics.play import HELD_STREAM, Batch, window_batch
from diamond_bench.worlds.contract import WorldModel
from diamond_bench.worlds.oracle.world import OracleWorld


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
            held_down = [repeat(action.numpy()[()], held_frames(self.settings)) for action in actions]
            frames, lengths = true_play(self.game, play, held_down, held_frames(self.settings), keys, parts.tick)
            true = measure(replace(batch, frames=frames.to(play.frames.device), shown="true", lengths=lengths))
            found = {f"true_{name}": values for name, values in true.items()}
        longest = held_frames(self.settings)
        frames = imagine_held(self.world, play, actions, keys, lengths.tolist(), parts.tick)
        frames = torch.nn.functional.pad(frames, (0, 0, 0, 0, 0, 0, 0, longest - frames.shape[1]))
        own = measure(replace(batch, frames=frames, lengths=lengths))
        return {**own, **found, "lengths": lengths, "idle": np.array([kind == 0 for _, kind, _ in held])}
