"""Held actions: the same start under different ones (paper figures 11 and 12), and long play under one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.evaluation.rollouts import drawn_from, imagine, row_generators
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


@torch.no_grad()
def imagine_held(
    world: WorldModel, start: WindowBatch, actions: Tensor, keys: Sequence[Key], lengths: Sequence[int], tick: Tick = lambda: None
) -> Tensor:
    """The frames that follow the context of each row, with its action held from the last context frame on: (n, T, 3, h, w) uint8, T the
    longest of `lengths`.

    Row i has lengths[i] frames, and black ones after them: it is imagined no further. `actions`: (n, ...). `keys`: the seed of each row's
    noise. `tick` is called after every step.
    """
    past, held = from_bytes(start.frames[:, : start.context]), actions.to(start.actions)
    imagined = torch.zeros(len(start), max(lengths), *past.shape[2:], dtype=torch.uint8, device=past.device)
    rows, generators = list(range(len(start))), row_generators(keys, past.device)
    draw = drawn_from(generators)
    mask = past.new_ones(past.shape[:2], dtype=torch.bool)
    state = world.start(past, start.actions[:, : start.context], mask, draw, start.origin)
    for t in range(max(lengths)):
        live = [i for i, row in enumerate(rows) if lengths[row] > t]
        if len(live) < len(rows):
            rows = [rows[i] for i in live]
            state, draw = tuple(part[live] for part in state), drawn_from([generators[row] for row in rows])
        state, step = world.step(state, held[rows], draw)
        imagined[rows, t] = to_bytes(step.frame)
        tick()
    return imagined


def as_arrays(spec: ActionSpec, frames: Tensor) -> dict[str, Any]:
    """The arrays of media/fixed_actions.npz: `names` (n,), `kind` of the actions, `frames` (n, horizon, h, w, 3) uint8."""
    import numpy as np

    shown = frames.cpu().numpy().transpose(0, 1, 3, 4, 2)
    return {"names": np.array(list(fixed_actions(spec))), "kind": np.array(spec.kind), "frames": shown}
