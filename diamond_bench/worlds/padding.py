"""Segments for causal models: padding behind the frames, so that nothing before it depends on it."""

import torch
from torch import Tensor


def first_frames(mask: Tensor) -> Tensor:
    """Index of the first frame of each row that is no padding, (b,), from a mask (b, t) of segments that are padded before their start."""
    return (~mask).sum(1)


def moved_to_front(values: Tensor, first: Tensor) -> Tensor:
    """Values (b, t, ...) whose rows begin with the element `first` (b,). The elements before it follow at the end."""
    steps = values.shape[1]
    index = (torch.arange(steps, device=values.device) + first[:, None]) % steps
    return values[torch.arange(len(values), device=values.device)[:, None], index]
