"""Saves what was played, in a thread of its own, so that play continues meanwhile."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.play.session import Moment, Session

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Played:
    """What is to be saved: the path of a session to a moment, and the paths to the ends of other branches."""

    session: Session
    moment: Moment
    player: str
    """Who played, such as human."""
    fps: float = 15.0
    """Steps per second that were asked for."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers, such as latencies and the true rate."""
    branches: tuple[Moment, ...] = ()
    """The ends of the other branches."""


Save = Callable[[Played], list[Path]]
"""Writes the recordings and returns their files or folders. Raises UserError if it cannot."""


class Saver:
    """Saves one after the other. What could not be saved is kept, and tried again with the next one and in the end."""

    def __init__(self, save: Save, tell: Callable[[dict[str, Any]], None]) -> None:
        """`tell` gets the messages `saved` and `notice`, in any thread."""
        self._save, self._tell = save, tell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._moment: Moment | None = None
        """The last moment of the newest play."""
        self._failed: deque[Played] = deque(maxlen=2)
        self._failure = ""
        self._newest = list[Path]()
        self.files = list[Path]()
        """All that was saved."""

    def save(self, played: Played, again: bool = True) -> None:
        """Saves this play. If it was saved last, its files are named once more if `again`."""
        if self._failed or played.moment is not self._moment:
            self._moment = played.moment
            self._thread.submit(self._write, played)
        elif again:
            self._thread.submit(self._name_newest)

    def close(self) -> None:
        """Waits until all is saved. Raises UserError if something cannot be saved."""
        if self._failed:
            self._thread.submit(self._write)
        self._thread.shutdown()
        if self._failed:
            raise UserError(f"not saved: {self._failure}")

    def _write(self, *played: Played) -> None:
        waiting = [*self._failed, *(each for each in played if each not in self._failed)]
        self._failed.clear()
        for each in waiting:
            try:
                self._newest = self._save(each)
            except Exception as error:  # no error may lose what was played
                if not isinstance(error, UserError):
                    _LOG.exception("the recording cannot be saved")
                self._failure = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                self._failed.append(each)
                self._tell({"kind": "notice", "text": f"not saved: {self._failure}"})
            else:
                self.files += self._newest
                self._name_newest()

    def _name_newest(self) -> None:
        self._tell({"kind": "saved", "files": [str(file) for file in self._newest]})
