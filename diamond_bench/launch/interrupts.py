"""Ctrl-C as a question the main loop asks, instead of an exception anywhere."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """How often the process was asked to stop."""

    def __init__(self) -> None:
        self.count = 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


@contextlib.contextmanager
def counted_interrupts() -> Iterator[Interrupts]:
    """Counts SIGINT and SIGTERM instead of dying of them, inside the context (outside the main thread: does nothing)."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
