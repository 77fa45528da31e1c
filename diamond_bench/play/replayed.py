"""Recorded actions as a player, step by step, so that play can be rewound."""

from collections.abc import Mapping
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.play.options import Place
from diamond_bench.play.recording import Recording, replay, same_bytes
from diamond_bench.play.session import Session


class Replayed:
    """The player `recording`."""

    def __init__(self, recording: Recording | None, as_recorded: bool, of_places: Mapping[Place, Recording]) -> None:
        """What is replayed.

        Args:
            recording: named by the user. None takes that of the place where a session begins.
            as_recorded: from the recorded start, with the recorded seeds and settings.
            of_places: recorded actions by the place from which they continue.
        """
        self._recording, self._as_recorded = recording, as_recorded and recording is not None
        self._of_places = None if recording is not None else of_places

    @property
    def recording(self) -> Recording | None:
        """The recording for the present session. None: there is nothing to replay."""
        return self._recording

    def begun(self, place: Place) -> None:
        """A session began at a place."""
        if self._of_places is not None:
            self._recording = self._of_places.get(place)

    def begin(self, session: Session, seed: int) -> tuple[Place, int]:
        """The place and the seed with which to begin. Raises UserError without a recording, and for one that does not fit the lanes."""
        if self._recording is None:
            raise UserError("there is no recording; name one with --actions FILE")
        replay(session, self._recording, self._as_recorded)  # raises, and plays nothing until it is iterated
        if self._as_recorded:
            return self._recording.place, self._recording.seed
        return session.start.place, seed

    def action(self, session: Session) -> Any:
        """The action of the present moment. Changes the session's seed and settings to those with which it was recorded."""
        assert self._recording is not None
        step = self._recording.steps[session.now.step]
        if self._as_recorded:
            step.prepare(session)
        return step.action

    def over(self, session: Session) -> str | None:
        """Why no action follows. None if one does."""
        number = 0 if self._recording is None else len(self._recording.steps)
        return f"the recording ends after {number:,} steps" if session.now.step >= number else None

    def verdict(self, session: Session) -> str | None:
        """At the end, whether each lane showed the recorded bytes. None before it, and if only the actions are replayed."""
        if self._recording is None or not self._as_recorded or self.over(session) is None:
            return None
        lanes = zip(session.lanes, same_bytes(session, self._recording), strict=True)
        return "; ".join(f"{lane.name}: replayed to {'the same' if equal else 'other'} bytes" for lane, equal in lanes)
