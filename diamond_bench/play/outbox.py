"""What waits to be sent to a page: answers in their order, and of the frames only the newest."""

import threading
from collections import deque
from collections.abc import Callable

from diamond_bench.play.messages import UNSEEN

_MOST = 32
"""Answers that wait. A page that reads none of them loses the oldest."""


class Outbox:
    """The driver's thread puts, and the connection takes. Frames are not queued: a newer one replaces one that waits."""

    def __init__(self, bell: Callable[[], None]) -> None:
        """`bell` is called in any thread when there is something to take."""
        self._bell = bell
        self._lock = threading.Lock()
        self._answers: deque[str | bytes] = deque(maxlen=_MOST)
        self._frame: tuple[int, bytes] | None = None
        self._unseen: deque[int] = deque()
        """The numbers of the frames that were sent and not acknowledged."""
        self.dropped = 0
        """Frames that were replaced before they were sent."""

    def answer(self, message: str | bytes) -> None:
        """Adds a message that is sent in its order, and before a frame that waits."""
        with self._lock:
            self._answers.append(message)
        self._bell()

    def show(self, number: int, message: bytes, first: str | None = None) -> None:
        """Adds a frame, in place of one that waits. `first`: an answer that is sent before it, and after no older frame."""
        with self._lock:
            if first is not None:
                self._answers.append(first)
            self.dropped += self._frame is not None
            self._frame = number, message
        self._bell()

    def seen(self, number: int) -> None:
        """The page has drawn this frame, and so has done with all before it."""
        with self._lock:
            while self._unseen and self._unseen[0] <= number:
                self._unseen.popleft()
            waits = self._frame is not None
        if waits:
            self._bell()

    def take(self) -> list[str | bytes]:
        """All that may be sent now. The frame is held back while UNSEEN others are not acknowledged."""
        with self._lock:
            found = list(self._answers)
            self._answers.clear()
            if self._frame is not None and len(self._unseen) < UNSEEN:
                self._unseen.append(self._frame[0])
                found.append(self._frame[1])
                self._frame = None
        return found
