"""Ctrl-C as a question the main loop asks, instead of an exception anywhere."""

import contextlib
import os
import signal
import stat
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
    """Counts SIGINT, SIGTERM and SIGHUP instead of dying of them, inside the context (outside the main thread: does nothing).

    A SIGHUP that the caller ignores, as under nohup, stays ignored. After another one nothing is written to the terminal, which is gone.
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
    """Sends what is still to be printed to nowhere where it would go to a terminal: writing to one that is gone raises an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)
