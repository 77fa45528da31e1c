"""Keys on their way from the page to a step, and pictures on their way back: what is pressed, and how long an answer takes."""

import threading
from collections import deque

from diamond_bench.play.messages import Keys

_LATENCIES = 300
"""Number of times that are kept."""


class Held:
    """The keys that count for the next step. One thread changes them, and another takes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[str] = []
        self._pressed: list[str] = []
        """The keys that are held, and those that were pressed since the last step, in the order in which they were pressed."""
        self._motion = (0.0, 0.0)
        self._at: float | None = None

    def change(self, keys: Keys) -> None:
        """Takes the newest state. A key that is released before a step has seen it counts for that step."""
        with self._lock:
            new = [key for key in keys.held if key not in self._held]
            self._pressed = [key for key in self._pressed if key not in new] + new
            self._held = list(keys.held)
            self._motion = (self._motion[0] + keys.motion[0], self._motion[1] + keys.motion[1])
            self._at = keys.at

    def take(self) -> tuple[list[str], tuple[float, float], float | None]:
        """(keys in the order in which they were pressed, sum of the motion, `at` of the newest state or None if it was taken before)."""
        with self._lock:
            found = self._pressed, self._motion, self._at
            self._settle()
        return found

    def forget(self) -> None:
        """Forgets all but the keys that are held now, as what happened during a pause is not played."""
        with self._lock:
            self._settle()

    def release(self) -> None:
        """Forgets all keys, as of a page that is gone."""
        with self._lock:
            self._held = []
            self._settle()

    def _settle(self) -> None:
        self._pressed, self._motion, self._at = list(self._held), (0.0, 0.0), None


class Latency:
    """The times from a key to the picture that answers it, on the page's clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, float]] = deque(maxlen=_LATENCIES)
        self._milliseconds: deque[float] = deque(maxlen=_LATENCIES)

    def answered(self, number: int, at: float) -> None:
        """The frame with this number answers the keys of this time."""
        with self._lock:
            self._waiting.append((number, at))

    def shown(self, number: int, at: float) -> None:
        """The page drew a frame at this time. It also shows the answers of frames before it, which were dropped."""
        with self._lock:
            while self._waiting and self._waiting[0][0] <= number:
                self._milliseconds.append(max(0.0, at - self._waiting.popleft()[1]))

    @property
    def percentiles(self) -> tuple[float, float] | None:
        """(p50, p95) in milliseconds. None before the first answer."""
        with self._lock:
            known = sorted(self._milliseconds)
        last = len(known) - 1
        return None if last < 0 else (round(known[round(0.5 * last)], 1), round(known[round(0.95 * last)], 1))
