"""The game of a dataset, played from recorded places under other actions than the recorded ones."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diamond_bench.data.static import EpisodeSet
from diamond_bench.envs.games import family_of
from diamond_bench.metrics.play import Key, Tick, WindowBatch
from diamond_bench.spaces import WorldSpec
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


def true_play(
    game: OracleWorld, play: WindowBatch, actions: Sequence[Iterable[Any]], horizon: int, keys: Sequence[Key], tick: Tick
) -> tuple[Tensor, NDArray[np.int64]]:
    """The game itself, from each row's last context frame on and under the row's `actions`.

    Returns frames (n, horizon, 3, h, w) uint8 on the CPU, black after the game's end, and the number of frames before it (n,). `keys`: the
    seeds of each row's random numbers. `tick` is called once per row.
    """
    assert play.origin is not None
    frames = np.zeros((len(play), horizon, *play.frames.shape[2:]), np.uint8)
    lengths = np.zeros(len(play), np.int64)
    places: list[tuple[int, int]] = [(number, step) for number, step in play.origin.tolist()]
    for row in sorted(range(len(play)), key=places.__getitem__):  # in order, so that no replay goes back
        for t, (frame, _, _) in enumerate(islice(game.played(places[row], actions[row], keys[row]), horizon)):
            frames[row, t], lengths[row] = frame, t + 1
        tick()
    return torch.from_numpy(frames), lengths
