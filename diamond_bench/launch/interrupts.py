"""Counts requests to stop (Ctrl-C), which the main loop polls, so that no exception is raised in the middle of its work."""

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Counts how often the process was asked to stop."""

    def __init__(self) -> None:
        self.count = 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


@contextlib.contextmanager
def counted_interrupts() -> Iterator[Interrupts]:
    """Inside the context, counts SIGINT, SIGTERM and SIGHUP instead of letting them end the process. Does nothing outside the main thread.

    A SIGHUP that the caller ignores, as under nohup, stays ignored. After any other SIGHUP the terminal is gone and nothing more is written
    to it.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def on_hangup(number: int, frame: FrameType | None) -> None:
        _leave_the_terminal()
        interrupts._on_signal(number, frame)

    before = {number: signal.signal(number, interrupts._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, on_hangup)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_the_terminal() -> None:
    """Discards later output to a terminal: writing to a terminal that is gone raises an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)
