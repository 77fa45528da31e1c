"""The same start under different fixed actions (paper figures 11 and 12)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diamond_bench.evaluation.rollouts import imagine
from diamond_bench.metrics.play import Key, Tick, WindowBatch
from diamond_bench.spaces import ActionSpec
from diamond_bench.worlds.contract import WorldModel

MOST = 8
"""Fixed actions of a game."""


def fixed_actions(spec: ActionSpec, most: int = MOST) -> Mapping[str, Tensor]:
    """Up to `most` actions by name, each of `spec.shape`.

    Discrete: the first actions. Otherwise the neutral action, in which numbers and bins are in the middle of their range and keys are 0,
    and then actions that move one column: numbers and bins half way to each end, keys to 1. Numbers and bins come before keys.
    """
    dtype = getattr(torch, spec.dtype)
    if not spec.trailing:
        names = spec.names or tuple(f"action {i}" for i in range(spec.sizes[0]))
        return {name: torch.tensor(i, dtype=dtype) for i, name in enumerate(names[:most])}
    names = spec.names or tuple(f"column {i}" for i in range(len(spec.sizes)))
    low, high = (torch.tensor(ends, dtype=torch.float64) for ends in spec.bounds)
    keys = torch.tensor([size == 2 for size in spec.sizes])
    neutral = torch.where(keys, low, (low + high) / 2)
    found = {"neutral": neutral}
    for key in (False, True):
        for i in torch.nonzero(keys == key).flatten().tolist():
            for sign, end in (("", high),) if key else ((" −", low), (" +", high)):
                action = neutral.clone()
                action[i] = end[i] if key else (neutral[i] + end[i]) / 2
                found[f"{names[i]}{sign}"] = action
    whole = not spec.low
    return {name: (action.round() if whole else action).to(dtype) for name, action in list(found.items())[:most]}


def imagine_fixed(world: WorldModel, play: WindowBatch, actions: Tensor, key: Key, tick: Tick) -> Tensor:
    """The frames that follow one window, with each of `actions` (n, ...) held from its last context frame on: (n, horizon, 3, h, w) uint8.

    All rows have the same noise. Raises ValueError unless `play` has one row.
    """
    if len(play) != 1:
        raise ValueError(f"expected one window, got {len(play)}")
    rows = play.repeated(len(actions))
    held = rows.actions.clone()
    held[:, play.context - 1 :] = actions.to(held)[:, None]
    return imagine(world, replace(rows, actions=held), [key] * len(actions), tick)


def as_arrays(spec: ActionSpec, frames: Tensor) -> dict[str, Any]:
    """The arrays of media/fixed_actions.npz: `names` (n,), `kind` of the actions, `frames` (n, horizon, h, w, 3) uint8."""
    import numpy as np

    shown = frames.cpu().numpy().transpose(0, 1, 3, 4, 2)
    return {"names": np.array(list(fixed_actions(spec))), "kind": np.array(spec.kind), "frames": shown}
