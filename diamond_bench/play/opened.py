"""What `diamond-bench play` plays: lanes of the jobs that were named, and the places where sessions may begin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diamond_bench.config import EnvConfig
from diamond_bench.play.lanes import Frame, Lane, Start
from diamond_bench.play.options import Place
from diamond_bench.play.recording import Recording
from diamond_bench.play.session import Session
from diamond_bench.spaces import ActionSpec
from diamond_bench.worlds.contract import RecordedPlay


@dataclass(frozen=True)
class LaneFacts:
    """One lane for the page: its names, what it predicts, and what may be changed."""

    name: str
    """Short and different from those of the other lanes, such as "n=1" or "real game"."""
    source: str
    """The job in the form kind/id, or the name of a family. The real game has the name of the game."""
    real: bool = False
    """Whether it is the real game."""
    milestones: tuple[float, ...] = ()
    """The milestones that its setting may name, ascending. Empty if there is no choice."""
    samplers: tuple[str, ...] = ()
    """The names of the samplers that its setting may name. Empty if it samples nothing."""
    guidance: bool = False
    """Whether it was trained for guidance (action dropout)."""
    rewards: bool = False
    """Whether it predicts rewards, or is the real game and has them."""
    ends: bool = False
    """As `rewards`, for ends."""
    policy: bool = False
    """Whether a policy watches it, which can play."""
    watchable: bool = False
    """Whether it samples in steps that can be shown (`Session.denoising`)."""
    two_stages: bool = False
    """Whether it makes each picture from one at low resolution (`Shown.low`)."""


@dataclass(frozen=True)
class Opened:
    """Everything that sessions of one command share. It is not changed, and threads may share it."""

    game: str
    """The name of the game, or of an imported dataset."""
    actions: ActionSpec
    facts: tuple[LaneFacts, ...]
    """One per lane, in the order of the lanes. The real game is last."""
    lanes: Callable[[], tuple[Lane, ...]]
    """New lanes for one session. They share the loaded models, and have a real game of their own, which only one thread may step."""
    starts: tuple[Place, ...]
    """The places that are offered, at least one."""
    start: Callable[[Place], Start]
    """The real play up to a place. Raises UserError for a place that is not there. All sessions begin with such a start."""
    notes: tuple[str, ...] = ()
    """Sentences that the player should read, such as why there is no real game."""
    env: EnvConfig | None = None
    """The real game's settings. None for an imported dataset."""
    play: RecordedPlay | None = None
    """The recorded play behind the starts. None where it cannot be replayed, so that there is no real game."""
    compared: int | None = None
    """The lane whose difference from the real game is shown first, as a further picture. None shows none."""
    recordings: Mapping[Place, Recording] = field(default_factory=dict)
    """Recorded actions that continue from a place."""

    @property
    def reference(self) -> int | None:
        """The lane of the real game, from which the drift of the others is measured. None without one."""
        return next((number for number, lane in enumerate(self.facts) if lane.real), None)

    def thumbnail(self, place: Place) -> Frame:
        """The last real frame of a place. Raises UserError for a place that is not there."""
        frame: Frame = self.start(place).frames[-1].numpy()
        return frame

    def session(self, place: Place | None = None, seed: int = 0, threads: int = 1) -> Session:
        """A new session with new lanes. `place`: by default the first of `starts`. Raises UserError where a lane cannot begin there."""
        return Session(self.lanes(), self.start(place or self.starts[0]), seed, threads)
