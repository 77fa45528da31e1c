"""The inputs of a job besides its config, and its result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diamond_bench.store.rows import Row
from diamond_bench.store.twins import Twin

__all__ = ["Interrupted", "JobContext", "Result", "Row"]


class Interrupted(Exception):
    """The job was asked to stop and has saved its state. Running it again resumes it."""


@dataclass(frozen=True)
class Result:
    """The content of a job's result.json. A job writes its files (arrays.npz, media/, ...) into its own folder itself."""

    rows: list[Row] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    """Plain facts to show with the job: counts, rules, the protocol record, digests."""


def _nothing(done: int, total: int, text: str) -> None: ...


@dataclass(frozen=True)
class JobContext:
    """The context in which a job runs. Its folder survives interruptions: files in it come from earlier attempts of the same job."""

    folder: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Folder of each input artifact."""
    device: str = "cpu"
    """torch's name of the device to compute on (cpu, cuda, cuda:N). Never auto."""
    progress: Callable[[int, int, str], None] = _nothing
    """progress(done, total, text). Call it often: it is throttled."""
    should_stop: Callable[[], bool] = lambda: False
    """To be called at every step boundary. If it returns true, save and raise Interrupted."""
    say: Callable[[str], None] = print
    """Shows a line to the user, such as a damaged file that was set aside, or a resume."""
    check_owner: Callable[[], None] = lambda: None
    """Raises if another process has taken over this job. To be called before anything is published in the folder."""
    losing_nothing: Callable[[Callable[[], bool]], None] = lambda check: None
    """Registers a function that says whether the process could be killed now and lose no more than the present step. Another thread calls
    it, when the job was asked to stop and its step takes too long."""
    twin: Callable[[Callable[[Any], Any], Sequence[str]], Twin | None] = lambda same, inputs: None
    """A finished job whose kept frames may be read in place of imagining them: store.twins.find_twin(..., same, inputs)."""
