"""Segments to start from: the last frames, and padding behind the frames, so that in causal models nothing before it depends on it."""

import torch
from torch import Tensor


def last_frames(count: int, frames: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The last `count` of frames (b, s, 3, h, w), and of what belongs to them, (b, s, ...). Raises ValueError if there are fewer."""
    if frames.shape[1] < count:
        raise ValueError(f"expected at least {count} frames to start from, got {frames.shape[1]}")
    return tuple(given[:, -count:] for given in (frames, *others))


def first_frames(mask: Tensor) -> Tensor:
    """Index of the first frame of each row that is no padding, (b,), from a mask (b, t) of segments that are padded before their start."""
    return (~mask).sum(1)


def moved_to_front(values: Tensor, first: Tensor) -> Tensor:
    """Values (b, t, ...) whose rows begin with the element `first` (b,). The elements before it follow at the end."""
    steps = values.shape[1]
    index = (torch.arange(steps, device=values.device) + first[:, None]) % steps
    return values[torch.arange(len(values), device=values.device)[:, None], index]


def seen_last(count: int, frames: Tensor, actions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The last `count` frames (b, count, 3, h, w) and actions of real play, each row's padding moved behind its frames, and the number of
    padded frames of each row, (b,). The arguments are those of `WorldModel.start`. Raises ValueError if there are fewer frames."""
    frames, actions, mask = last_frames(count, frames, actions, mask)
    first = first_frames(mask)
    return moved_to_front(frames, first), moved_to_front(actions, first), first
