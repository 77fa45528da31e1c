"""Synthetic episodes whose frame t shows t: channel 0 is t, channel 1 the episode, channel 2 is 255."""

import numpy as np
import torch

from diamond_bench.data.minari_io import Episode
from diamond_bench.data.static import EpisodeSet


def episode(number: int, steps: int, size: int = 8) -> Episode:
    """T steps, T + 1 frames; action t is (t + number) % 4, reward t."""
    frames = np.zeros((steps + 1, size, size, 3), np.uint8)
    frames[..., 0] = np.arange(steps + 1).reshape(-1, 1, 1)
    frames[..., 1] = number
    frames[..., 2] = 255
    t = np.arange(steps)
    return Episode(frames, (t + number) % 4, t.astype(np.float32), terminated=number % 2 == 0, truncated=number % 2 == 1)


def episode_set(*steps: int, first: int = 0, size: int = 8) -> EpisodeSet:
    """Episodes of these numbers of steps, numbered from `first`, in memory as `load_split` lays them out."""
    episodes = [episode(first + i, n, size) for i, n in enumerate(steps)]
    lengths = torch.tensor([n + 1 for n in steps])

    def rows(values: list[np.ndarray]) -> torch.Tensor:
        return torch.cat([torch.cat([torch.from_numpy(v), torch.zeros(1, dtype=torch.from_numpy(v).dtype)]) for v in values])

    return EpisodeSet(
        frames=torch.cat([torch.from_numpy(e.frames).permute(0, 3, 1, 2) for e in episodes]).contiguous(),
        actions=rows([e.actions for e in episodes]),
        rewards=rows([e.rewards for e in episodes]),
        terminations=rows([(np.arange(len(e.actions)) == len(e.actions) - 1) & e.terminated for e in episodes]),
        truncations=rows([(np.arange(len(e.actions)) == len(e.actions) - 1) & e.truncated for e in episodes]),
        starts=lengths.cumsum(0) - lengths,
        lengths=lengths,
    )
