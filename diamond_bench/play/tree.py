"""What a driver keeps of each moment of a session: the tree in short form, and what has happened up to there."""

from dataclasses import dataclass
from typing import Any

from diamond_bench.play.lanes import Shown
from diamond_bench.play.session import Moment


@dataclass(frozen=True)
class Tally:
    """What has happened in one lane since the start."""

    reward: float = 0.0
    """The sum of the rewards."""
    ended: bool = False
    cut: bool = False

    def after(self, shown: Shown) -> "Tally":
        """With one step more."""
        return Tally(self.reward + shown.reward, self.ended or shown.ended, self.cut or shown.cut)


class Tree:
    """The moments of a session by their number. They are added in the order in which they are played."""

    def __init__(self, first: Moment) -> None:
        self._tallies = [tuple(Tally() for _ in first.shown)]
        self._runs: list[list[int | None]] = [[0, None, 0, 1]]

    def add(self, moment: Moment) -> bool:
        """Adds a moment, unless it is known. Whether it begins a branch."""
        if moment.number < len(self._tallies):
            return False
        assert moment.before is not None
        before = moment.before.number
        self._tallies.append(tuple(tally.after(shown) for tally, shown in zip(self._tallies[before], moment.shown, strict=True)))
        if before == moment.number - 1:
            self._runs[-1][3] += 1  # type: ignore[operator]
            return False
        self._runs.append([moment.number, before, moment.step, 1])
        return True

    def tallies(self, moment: Moment) -> tuple[Tally, ...]:
        """What has happened up to a moment, one per lane."""
        return self._tallies[moment.number]

    def over(self, moment: Moment) -> bool:
        """Whether the game has ended or was cut in all lanes."""
        return all(tally.ended or tally.cut for tally in self.tallies(moment))

    def message(self, now: Moment) -> dict[str, Any]:
        """The message `tree`."""
        return {"kind": "tree", "runs": self._runs, "now": now.number}
