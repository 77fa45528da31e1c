"""The settings of a session of play that belong to no model: who plays, how fast, and where the page is served. Without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Place = tuple[int, int]
"""(recording, step) of the last real frame before play, as `Start.place`."""
Player = Literal["human", "policy", "recording"]
Pictures = Literal["png", "webp", "jpeg"]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of addresses that only this machine reaches."""
MAX_FPS = 120.0
MAX_HORIZON = 1_000_000
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class PlayOptions:
    """What `diamond-bench play` was asked for, checked. Neither a browser nor a page can change `out`, `host` and `port`."""

    player: Player = "human"
    """Who plays first."""
    seed: int = 0
    """The seed of a session's start."""
    place: Place | None = None
    """Where sessions begin. None is the first of the list of starts."""
    fps: float = 15.0
    """Steps per second, above 0 and at most 120."""
    horizon: int = 0
    """Steps after which a session is over. 0 is no limit."""
    threads: int = 1
    """CPU threads of torch."""
    pictures: Pictures = "png"
    """The format of the pictures that the page gets."""
    actions: Path | None = None
    """The file of recorded actions to replay (`recording.read_recording`). None without one."""
    as_recorded: bool = True
    """Whether recorded actions are replayed with the recorded seeds and settings."""
    out: Path = Path("play")
    """The folder for what is saved."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 0
    """0 takes a free one."""
    browser: bool = True
    """Whether a browser is opened."""
