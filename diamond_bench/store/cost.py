"""What a kind of job says of its cost: functions of its config and of its inputs' configs. Callers add these up and know no network."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Inputs = Mapping[str, Any]
"""By name of the input, the config of the job that makes it."""


@dataclass(frozen=True)
class Arithmetic:
    """What sets the speed of a job: jobs of one kind and device that agree in it do their work at the same rate."""

    network: str = ""
    """Names the shape of the network that takes the time. Empty where none does: the job runs on the CPU, and its work counts frames."""
    width: float = 64.0
    """Mean channels of that network; a narrow network takes longer per operation."""
    precision: str = ""
    device: str = "cpu"
    """execution.device, as the config asks for it."""


@dataclass(frozen=True)
class Checkpoint:
    """How often a job saves what it resumes from."""

    key: str
    """The key of the config that sets it."""
    every: int
    """Steps between two checkpoints."""
    total: int
    """Steps of the whole job."""


def _nothing(config: Any, inputs: Inputs) -> float:
    return 0.0


def _plain(config: Any, inputs: Inputs) -> Arithmetic:
    return Arithmetic()


def _short(config: Any, device: str) -> float:
    return 3.0


def _one(config: Any) -> int:
    return 1


@dataclass(frozen=True)
class JobCost:
    """The cost of a kind's jobs. Every function takes the job's config; most also take the configs of its inputs."""

    work: Callable[[Any, Inputs], float] = _nothing
    """FLOP of the networks, or frames where no network takes the time (`Arithmetic.network`)."""
    arithmetic: Callable[[Any, Inputs], Arithmetic] = _plain
    fixed_seconds: Callable[[Any, str], float] = _short
    """Seconds of a job apart from its work, on the reference core of studies/speed.py: imports, pictures, files, metrics. The second
    argument is the type of device, cpu or cuda."""
    disk: Callable[[Any, Inputs], float] = _nothing
    """Bytes that the finished job takes."""
    passing_disk: Callable[[Any, Inputs], float] = _nothing
    """Bytes that the job takes in addition while it runs, and gives back."""
    checkpoint: Callable[[Any], Checkpoint] | None = None
    """None where finished parts are kept as they come."""
    processes: Callable[[Any], int] = _one
    """Processes of the job that use the device at once."""


NOTHING = JobCost()
"""Jobs of seconds."""


class InputConfigs(Mapping[str, Any]):
    """`Inputs` that looks a config up only when it is asked for: a kind may need fewer than there are."""

    def __init__(self, refs: Mapping[str, Any], config_of: Callable[[Any], Any]) -> None:
        """`refs`: by name, the jobs that make the inputs. `config_of`: from such a job to its config."""
        self._refs = refs
        self._config_of = config_of

    def __getitem__(self, name: str) -> Any:
        return self._config_of(self._refs[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)
