"""Memory that a process keeps after it was freed."""

import ctypes
import os
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
_LARGEST_KEPT = 2**30
"""Larger allocations, in bytes, are given back to the system."""
_NEVER = -1


def keep_memory() -> bool:
    """Lets this process keep freed memory for its next allocations, until `give_back_memory`.

    By default glibc gives the activations of each update back to the system, which clears their pages again for the next update. With the
    paper's network on a CPU this takes a tenth of an update (docs/measurements/speed.md).

    Returns whether it does: a recent glibc can, unless the user has set its environment variables.
    """
    libc: Any = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    return bool(libc.mallopt(MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(libc.mallopt(TRIM_THRESHOLD, _NEVER))


def give_back_memory() -> None:
    """Gives kept memory that is free back to the system. Only after `keep_memory` returned True."""
    ctypes.CDLL(None).malloc_trim(0)
