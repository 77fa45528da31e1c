"""What a job is given besides its config, and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diamond_bench.store.rows import Row
from diamond_bench.store.twins import Twin

__all__ = ["Interrupted", "JobContext", "Result", "Row"]


class Interrupted(Exception):
    """The job was asked to stop and has saved what it needs to go on; it is resumed by running it again."""


@dataclass(frozen=True)
class Result:
    """What a job leaves in result.json; files (arrays.npz, media/, ...) it writes into its own folder itself."""

    rows: list[Row] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    """Plain facts to be shown with the job: counts, rules, the protocol record, digests."""


def _nothing(done: int, total: int, text: str) -> None: ...


@dataclass(frozen=True)
class JobContext:
    """A job's surroundings. Its folder survives interruption: what it finds there, it made itself in an earlier attempt."""

    folder: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Folder of each input artifact."""
    device: str = "cpu"
    """torch's name of the device to compute on (cpu, cuda, cuda:N); resolved, never auto."""
    progress: Callable[[int, int, str], None] = _nothing
    """progress(done, total, text): call it often; it is throttled."""
    should_stop: Callable[[], bool] = lambda: False
    """Ask at every step boundary; where it is true, save and raise Interrupted."""
    say: Callable[[str], None] = print
    """A line a person should see (a damaged file set aside, a resume)."""
    check_owner: Callable[[], None] = lambda: None
    """Raises when another process has taken this job over; called before anything is published in the folder."""
    twin: Callable[[Callable[[Any], Any], Sequence[str]], Twin | None] = lambda same, inputs: None
    """A finished job whose kept frames may be read in place of imagining them: store.twins.find_twin(..., same, inputs)."""
