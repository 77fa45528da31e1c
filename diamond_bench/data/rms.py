"""The root mean square of frames, or of their changes, over all training play of a world model."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diamond_bench.data.replay import ReplayEpisodes
from diamond_bench.data.sources import SegmentSource
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError

_ROWS = 256
"""Frames that are converted at once."""
Picture = Callable[[Tensor], Tensor]
"""Makes other pictures from bytes of frames, (n, 3, h, w) -> (n, 3, h', w') int32, on a scale where 255 is 1."""


def whole_frames(rows: Tensor) -> Tensor:
    """The frames themselves, as a `Picture`."""
    return 2 * rows.int() - 255


def frame_rms(episodes: EpisodeSet | SegmentSource, picture: Picture = whole_frames) -> float:
    """Root mean square of all pixels of pictures in [-1, 1]; 0 is mid-grey. Raises UserError if it is 0."""
    return _rms((picture(rows) for rows in _chunks(episodes, 0)), "frames that are not grey")


def change_rms(episodes: EpisodeSet | SegmentSource, picture: Picture = whole_frames) -> float:
    """Root mean square of all pixel differences between a picture in [-1, 1] and the next one of its episode.

    Raises UserError if it is 0.
    """
    shown = (picture(rows) for rows in _chunks(episodes, 1))
    return _rms((rows[1:] - rows[:-1] for rows in shown), "two frames in a row that differ")


def _rms(values: Iterator[Tensor], missing: str) -> float:
    """The RMS of integers on a scale where 255 is 1. Sums are exact, so all devices and orders give the same number."""
    total, count = 0, 0
    for value in values:
        total, count = total + int(value.square().sum(dtype=torch.int64)), count + value.numel()
    if not total:
        raise UserError(f"objective.sigma_data=measured: the training data has no {missing}; give a number")
    return math.sqrt(total / count) / 255


def _chunks(episodes: EpisodeSet | SegmentSource, overlap: int) -> Iterator[Tensor]:
    """Frames (n, 3, h, w) in order, up to _ROWS new ones at a time, never from two episodes. `overlap`: number of frames repeated from the
    previous chunk."""
    stride = episodes.stride if isinstance(episodes, ReplayEpisodes) else 1
    for start, length in zip(episodes.starts.tolist(), episodes.lengths.tolist(), strict=True):
        for first in range(0, length, _ROWS):
            begin, end = max(0, first - overlap), min(length, first + _ROWS)
            if isinstance(episodes, EpisodeSet):
                yield episodes.frames[start + begin * stride : start + (end - 1) * stride + 1 : stride]
            else:
                rows = torch.arange(start + begin, start + end, device=episodes.starts.device)
                yield episodes.read(rows[None]).frames[0]
