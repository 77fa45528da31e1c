"""How many CPU threads imagining takes, and torch's work with so many."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diamond_bench.worlds.contract import WorldModel

WIDE = 1e9
"""FLOP of a network call from which several threads are worth while."""


def threads_for(world: WorldModel, rows: int) -> int:
    """CPU threads for imagining `rows` games at once: one where a network call takes fewer than `WIDE` FLOP, else one per core that this
    process may use. Threads of short calls mostly wait for each other.
    """
    calls = max(1, world.calls_per_frame)
    if world.device.type != "cpu" or rows * world.flops_per_frame < WIDE * calls:
        return 1
    return len(os.sched_getaffinity(0))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs torch with `count` threads, and afterwards with as many as before. The number belongs to the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
