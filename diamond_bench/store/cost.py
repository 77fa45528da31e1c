"""The cost of a kind of job, as functions of its config and of its inputs' configs. Callers add these up and know no network."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Inputs = Mapping[str, Any]
"""The config of the job that creates each input, by name of the input."""


@dataclass(frozen=True)
class Arithmetic:
    """The properties that determine the speed of a job. Jobs of one kind and device with equal properties work at the same rate."""

    network: str = ""
    """Identifies the shape of the network that takes the time. Empty if none does: the job runs on the CPU, and its work counts frames."""
    width: float = 64.0
    """Mean channels of that network. A narrow network takes longer per operation."""
    precision: str = ""
    device: str = "cpu"
    """execution.device, as in the config."""


@dataclass(frozen=True)
class Checkpoint:
    """How often a job saves the state from which it resumes."""

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
    """The cost of a kind's jobs. Every function takes the job's config, and most also take the configs of its inputs."""

    work: Callable[[Any, Inputs], float] = _nothing
    """FLOP of the networks, or frames if no network takes the time (`Arithmetic.network`)."""
    arithmetic: Callable[[Any, Inputs], Arithmetic] = _plain
    fixed_seconds: Callable[[Any, str], float] = _short
    """Seconds of a job apart from its work, on the reference core of studies/speed.py: imports, pictures, files, metrics. The second
    argument is the type of device, cpu or cuda."""
    disk: Callable[[Any, Inputs], float] = _nothing
    """Bytes of the finished job."""
    passing_disk: Callable[[Any, Inputs], float] = _nothing
    """Additional bytes while the job runs."""
    checkpoint: Callable[[Any], Checkpoint] | None = None
    """None if the job stores finished parts as they come."""
    processes: Callable[[Any], int] = _one
    """Processes of the job that use the device at once."""
    gpus: Callable[[Any], int] = _one
    """GPUs that the job uses, where it uses one."""


NOTHING = JobCost()
"""For jobs that take seconds."""


class InputConfigs(Mapping[str, Any]):
    """`Inputs` that loads a config only on request: a kind may need fewer than there are."""

    def __init__(self, refs: Mapping[str, Any], config_of: Callable[[Any], Any]) -> None:
        """`refs`: the jobs that create the inputs, by name. `config_of`: maps such a job to its config."""
        self._refs = refs
        self._config_of = config_of

    def __getitem__(self, name: str) -> Any:
        return self._config_of(self._refs[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)
