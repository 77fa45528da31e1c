"""The peak rate of a device, and the number of times the host waits for it."""

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from diamond_bench.models.precision import Precision, arithmetic
from diamond_bench.profiling.timing import Work, alternate, spread, warm_up

_SIDES = {"cpu": (512, 1024, 1536), "cuda": (4096, 8192)}
"""Side lengths of the square matrices whose product is timed."""
_ENOUGH_SECONDS = 0.3
_LONGEST_SECONDS = 0.5
"""If the first product of a side length takes longer, it and larger ones are left out, as for bf16 on a CPU without units for it."""


_FP32: Precision = "fp32"


class Product(NamedTuple):
    """A square matrix product. The fastest one compares as the greatest."""

    flop_per_second: float
    side: int
    precision: Precision


def product_peak(
    device: torch.device, precision: Precision, wait: Callable[[], object], tick: Callable[[float], object] = lambda share: None
) -> Product:
    """The fastest square matrix product of this device in this precision or fp32, whichever is faster, by the median of its timings.

    Operands are in the precision. `tick` is called for each product and may raise to end the measurement.
    """
    found: list[Product] = []
    for tried in dict.fromkeys((precision, _FP32)):
        for side in _SIDES[device.type]:
            a, b = (torch.randn(side, side, device=device).to(torch.bfloat16 if tried == "bf16" else torch.float32) for _ in range(2))
            work = Work(partial(torch.mm, a, b))
            with arithmetic(device.type, tried), torch.no_grad():
                first = _once(work, wait)
                tick(0.0)
                needed = tried == "fp32" and not found
                if first > _LONGEST_SECONDS and not needed:
                    break
                timings = alternate([work], [warm_up(work, wait, tick)], wait, tick, enough=_ENOUGH_SECONDS)
            found.append(Product(2.0 * side**3 / spread(timings.seconds[0]).median, side, tried))
    return max(found)


def _once(work: Work, wait: Callable[[], object]) -> float:
    wait()
    started = time.perf_counter()
    work.call()
    wait()
    return time.perf_counter() - started


def host_synchronisations(step: Callable[[], object], steps: int, device: torch.device) -> float | None:
    """Number of times one step waits for the device, as counted by torch. None on the CPU, where there is nothing to wait for."""
    if device.type != "cuda":
        return None
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(steps):
                step()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return sum("synchroniz" in str(warning.message) for warning in caught) / steps
