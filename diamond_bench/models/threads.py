"""The number of CPU threads that torch computes with for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diamond_bench.errors import UserError


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs torch with `count` threads, and afterwards with as many as before. The number belongs to the whole process.

    Raises UserError where `count` is not a whole number from 1.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"threads={count!r}: expected a whole number from 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
