"""Recorded actions as a player, step by step, so that play can be rewound."""

from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.play.options import Place
from diamond_bench.play.recording import Recording, replay, same_bytes
from diamond_bench.play.session import Session


class Replayed:
    """The player `recording`."""

    def __init__(self, recording: Recording | None, as_recorded: bool) -> None:
        """`as_recorded`: from the recorded start, with the recorded seeds and settings. None: there is nothing to replay."""
        self._recording, self._as_recorded = recording, as_recorded

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
        assert self._recording is not None
        number = len(self._recording.steps)
        return f"the recording ends after {number:,} steps" if session.now.step >= number else None

    def verdict(self, session: Session) -> str | None:
        """At the end, whether each lane showed the recorded bytes. None before it, and if only the actions are replayed."""
        if self._recording is None or not self._as_recorded or self.over(session) is None:
            return None
        lanes = zip(session.lanes, same_bytes(session, self._recording), strict=True)
        return "; ".join(f"{lane.name}: replayed to {'the same' if equal else 'other'} bytes" for lane, equal in lanes)
