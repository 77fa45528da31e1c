"""Training segments drawn from an episode set wholly on its device (method section 4, golden README 3.5).

No loop over examples, no data loader, and nothing read back by the host: a batch costs a handful of index operations.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diamond_bench.data.static import EpisodeSet

_QUARTER_BOUNDS = (0.1, 0.2, 0.3)  # cumulative weights 0.1, 0.1, 0.1, 0.7, oldest to newest


@dataclass(frozen=True)
class Segments:
    """b stretches of play of t frames each; action i is taken after frame i."""

    frames: Tensor
    """(b, t, 3, h, w) uint8; padding holds zeros, which are not its value: use `to_float`."""
    actions: Tensor
    """(b, t) int64; 0 where padded, and at an episode's final observation."""
    mask: Tensor
    """(b, t) bool; false where padded."""


def sample_segments(
    episodes: EpisodeSet, batch_size: int, length: int, generator: torch.Generator, weighting: Literal["length", "recency"] = "length"
) -> Segments:
    """Draw `batch_size` segments of `length` frames, independently and with replacement.

    Of an episode (chosen by `weighting`) a frame t is drawn uniformly; the segment stops at min(rows, t + 1 + U{0..length-1})
    and starts `length` earlier. It never passes the episode's end; what lies before its start is padding.
    `weighting`: "length" chooses episodes in proportion to their frames (static data); "recency" cuts them in order into four groups
    of E // 4, the last with the remainder, of weights 0.1, 0.1, 0.1, 0.7, uniform inside (replay); below 4 episodes, by length.
    `generator` lives on the episodes' device.
    """
    device = episodes.frames.device
    if weighting == "recency" and len(episodes) >= 4:
        episode = _by_recency(len(episodes), batch_size, generator)
        start, rows = episodes.starts[episode], episodes.lengths[episode]
        uniform = torch.rand(batch_size, generator=generator, device=device, dtype=torch.float64)
        frame = (uniform * rows).long()
    else:  # a uniform row is an episode in proportion to its length and a uniform frame of it
        row = torch.randint(len(episodes.frames), (batch_size,), generator=generator, device=device)
        episode = torch.searchsorted(episodes.starts, row, right=True) - 1
        start, rows = episodes.starts[episode], episodes.lengths[episode]
        frame = row - start
    stop = torch.minimum(rows, frame + 1 + torch.randint(length, (batch_size,), generator=generator, device=device))
    position = (stop - length)[:, None] + torch.arange(length, device=device)  # (b, t) in the episode; negative is padding
    mask = position >= 0
    index = start[:, None] + position.clamp(min=0)
    return Segments(episodes.frames[index] * mask[:, :, None, None, None], episodes.actions[index] * mask, mask)


def _by_recency(num_episodes: int, batch_size: int, generator: torch.Generator) -> Tensor:
    device, quarter = generator.device, num_episodes // 4
    uniform = torch.rand((2, batch_size), generator=generator, device=device, dtype=torch.float64)
    group = torch.zeros(batch_size, dtype=torch.int64, device=device)
    for bound in _QUARTER_BOUNDS:
        group += uniform[0] >= bound
    size = quarter + (group == 3) * (num_episodes - 4 * quarter)
    return group * quarter + (uniform[1] * size).long()


def to_float(segments: Segments) -> Tensor:
    """(b, t, 3, h, w) float32 in [-1, 1], padding exactly 0.0: byte / 255 * 2 - 1 in this order, times the mask."""
    frames = segments.frames.to(torch.float32).div(255).mul(2).sub(1)
    return frames * segments.mask[:, :, None, None, None]
