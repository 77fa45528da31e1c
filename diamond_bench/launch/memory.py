"""Memory that a process keeps after it was freed."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
_LARGEST_KEPT = 2**30
"""Larger allocations, in bytes, are given back to the system."""


def keep_memory() -> bool:
    """Lets this process keep freed memory for its next allocations. Returns whether its C library can: glibc can.

    By default glibc gives the activations of each update back to the system, which then clears their pages for the next update. With the
    paper's network on a CPU this takes a tenth of an update (docs/measurements/speed.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
