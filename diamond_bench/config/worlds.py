"""What planning needs to know of a family of world models, and the registry that names them. Plain data, without torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diamond_bench.config.diffusion import OPTIONS, Option, Sampler, imported
from diamond_bench.spaces import WorldSpec

DIAMOND = "diamond"
"""The family of a run whose `family` is null. Its settings are `objective`, `conditioning`, `network`, `training` and `sampler`."""
_DIAMOND = "diamond_bench.worlds.diamond:FAMILY"


@dataclass(frozen=True)
class WorldSettings:
    """Base class of the settings of a family. Each family has its own subclass."""

    name: str


@dataclass(frozen=True)
class WorldCost:
    """The cost of one row of a world model."""

    parameters: int = 0
    """Number of trained parameters of all its networks."""
    flops_per_frame: float = 0.0
    calls_per_frame: int = 0
    state_bytes: int = 0
    """Maximum number of bytes of the state of one row."""
    start_flops: float = 0.0
    """FLOP of `start`."""
    reconstruction_flops: float = 0.0
    """FLOP to encode a frame and decode it, for a family that reconstructs."""


def _no_check(settings: Any, config: Any, protocol: str) -> None:
    pass


def _no_updates(settings: Any, spec: WorldSpec, training: Any) -> float:
    return 0.0


def _one_frame(settings: Any) -> int:
    return 1


def never(settings: Any) -> bool:
    """The neutral value of `WorldFamily.outcomes`."""
    return False


def always(settings: Any) -> bool:
    """The value of `WorldFamily.outcomes` of a family whose models always predict rewards and ends."""
    return True


@dataclass(frozen=True)
class WorldFamily:
    """A family of world models: one folder in worlds/ and one line of `WORLD_FAMILIES`. It sets `open` or `build`.

    Planning imports the object, so its module must import torch within its functions only. `settings` is an object of the family's own
    subclass of `WorldSettings`. For diamond it is the config of the run or of the training.
    """

    about: str
    """One sentence for tables in the documentation."""
    cost: Callable[[Any, WorldSpec, Sampler], WorldCost]
    """cost(settings, spec, sampler)."""
    open: str = ""
    """For a family that is not trained, the "module:function" that opens a world: (settings, spec, device, play) ->
    `worlds.contract.WorldModel`. `play` is the recorded play that imagination starts from (`worlds.contract.RecordedPlay`), or None."""
    build: str = ""
    """For a family that is trained, the "module:function" that builds a world with fresh weights from torch's global CPU generator:
    (settings, spec, precision, device) -> `worlds.contract.TrainedWorld`."""
    load: str = "diamond_bench.worlds.files:load_world"
    """The "module:function" that reads the files of `TrainedWorld.save`: (folder, frames, precision, device, actions) -> `TrainedWorld`."""
    update_flops: Callable[[Any, WorldSpec, Any], float] = _no_updates
    """update_flops(settings, spec, training): FLOP of one update of each of its networks, for the whole batch. A backward pass counts as
    two forward passes."""
    context: Callable[[Any], int] = _one_frame
    """context(settings): number of past frames that a prediction uses. A training segment is longer."""
    reads: tuple[str, ...] = ()
    """The settings in `studies.families.OPTIONAL` that a trained family uses. Other settings are refused, and enter no identity."""
    estimates: bool = False
    """Whether its models estimate the clean next frame at a noise level of `objective` (`worlds.contract.Estimating`)."""
    outcomes: Callable[[Any], bool] = never
    """outcomes(settings): whether its models predict rewards and ends, in games that have them. If not, agents train a separate reward/end
    model."""
    reconstructs: bool = False
    """Whether its models encode frames as tokens and decode them (`worlds.contract.Reconstructing`)."""
    two_stages: bool = False
    """Whether its sampler has two stages (`CascadeSampler`)."""
    open_loop: bool = False
    """Whether its models also take samplers that denoise the frames of a horizon together (`OpenLoopSampler`)."""
    check: Callable[[Any, Any, str], None] = _no_check
    """check(settings, config, protocol): raises UserError if a run cannot use the family. `config` is its `RunConfig`, `protocol` is
    world_model or agent."""
    small: str = ""
    """The name of a preset of the family for CPUs. Empty if there is none, or if a scale sets the size."""
    revision: int = 1
    """Raised by hand when the family's code changes results. It enters the identities of this family's jobs only."""

    @property
    def trained(self) -> bool:
        """Whether a job trains models of this family."""
        return bool(self.build)


WORLD_FAMILIES: dict[str, Option] = {
    "cascade": Option("diamond_bench.worlds.cascade:Cascade", "diamond_bench.worlds.cascade:FAMILY"),
    "copy_last_frame": Option("diamond_bench.worlds.copy_last_frame:CopyLastFrame", "diamond_bench.worlds.copy_last_frame:FAMILY"),
    "oracle": Option("diamond_bench.worlds.oracle:Oracle", "diamond_bench.worlds.oracle:FAMILY"),
    "tokens": Option("diamond_bench.worlds.tokens:Tokens", "diamond_bench.worlds.tokens:FAMILY"),
    "transformer": Option("diamond_bench.worlds.transformer:Transformer", "diamond_bench.worlds.transformer:FAMILY"),
}
"""The families by the value of `family`: the "module:class" of the settings, and the "module:object" of the `WorldFamily`."""


REGISTRIES = {**OPTIONS, "family": WORLD_FAMILIES}
"""All registries of named settings, by the name of the config field."""


def world_family(settings: WorldSettings | None) -> WorldFamily:
    """The family that these settings belong to. None is diamond."""
    function = _DIAMOND if settings is None else WORLD_FAMILIES[settings.name].function
    family: WorldFamily = imported(function)
    return family


def predicts_outcomes(config: Any) -> bool:
    """Whether the world model of a run or a job predicts rewards and ends itself."""
    settings: WorldSettings | None = getattr(config, "family", None)
    return world_family(settings).outcomes(settings or config)


def untrained_families() -> list[str]:
    """Names of the families that are not trained."""
    return [name for name, option in WORLD_FAMILIES.items() if not imported(option.function).trained]


def families_table() -> str:
    """The families as a Markdown table for docs/worlds.md."""
    functions = {DIAMOND: _DIAMOND} | {name: option.function for name, option in WORLD_FAMILIES.items()}
    rows = [f"| `{name}` | {imported(function).about} |" for name, function in functions.items()]
    return "\n".join(["| `family` | What it is |", "| --- | --- |", *rows])
