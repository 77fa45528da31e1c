"""What planning asks of a family of world models, and the registry that names them. Plain data: no torch."""

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
    """Settings of a family; each family has a subclass of its own."""

    name: str


@dataclass(frozen=True)
class WorldCost:
    """What one row of a world model costs."""

    parameters: int = 0
    """Trained parameters of all its networks."""
    flops_per_frame: float = 0.0
    calls_per_frame: int = 0
    state_bytes: int = 0
    """The most bytes that the state of one row takes."""


def _no_check(settings: Any, config: Any, protocol: str) -> None:
    pass


def _no_updates(settings: Any, spec: WorldSpec, training: Any) -> float:
    return 0.0


def _one_frame(settings: Any) -> int:
    return 1


@dataclass(frozen=True)
class WorldFamily:
    """A family of world models: one folder of worlds/ and one line of `WORLD_FAMILIES`. It names `open` or `build`.

    Planning imports the object, so its module must load torch inside its functions only. `settings` is an object of the family's own
    subclass of `WorldSettings`. For diamond it is the config of the run or of the training.
    """

    about: str
    """One sentence for tables of the documentation."""
    cost: Callable[[Any, WorldSpec, Sampler], WorldCost]
    """cost(settings, spec, sampler)."""
    open: str = ""
    """For a family that is not trained, the "module:function" that opens a world: (settings, spec, device, play) ->
    `worlds.contract.WorldModel`. `play` is the recorded play that imagination starts from (`worlds.contract.RecordedPlay`), or None."""
    build: str = ""
    """For a family that is trained, the "module:function" that builds a world with fresh weights from torch's global CPU generator:
    (settings, spec, precision, device) -> `worlds.contract.TrainedWorld`."""
    load: str = "diamond_bench.worlds.files:load_world"
    """The "module:function" that reads what `TrainedWorld.save` wrote: (folder, frames, precision, device, actions) -> `TrainedWorld`."""
    update_flops: Callable[[Any, WorldSpec, Any], float] = _no_updates
    """update_flops(settings, spec, training): FLOP of one update of each of its networks, for the whole batch. A backward pass counts as
    two forward passes."""
    context: Callable[[Any], int] = _one_frame
    """context(settings): the past frames that a prediction is made from. A training segment is longer."""
    reads: tuple[str, ...] = ()
    """The settings in `studies.families.OPTIONAL` that a trained family reads. The others are refused, and enter no identity."""
    check: Callable[[Any, Any, str], None] = _no_check
    """check(settings, config, protocol) raises UserError where a run cannot use the family. `config`: its `RunConfig`; `protocol`:
    world_model or agent."""
    revision: int = 1
    """Raised by hand when the family's code changes results; part of the identities of the family's jobs alone."""

    @property
    def trained(self) -> bool:
        """Whether a job trains its models."""
        return bool(self.build)


WORLD_FAMILIES: dict[str, Option] = {
    "copy_last_frame": Option("diamond_bench.worlds.copy_last_frame:CopyLastFrame", "diamond_bench.worlds.copy_last_frame:FAMILY"),
    "oracle": Option("diamond_bench.worlds.oracle:Oracle", "diamond_bench.worlds.oracle:FAMILY"),
}
"""By the value of `family`: the "module:class" of its settings, and the "module:object" of its `WorldFamily`."""


REGISTRIES = {**OPTIONS, "family": WORLD_FAMILIES}
"""Every registry of named settings, by the name of the field that holds the choice."""


def world_family(settings: WorldSettings | None) -> WorldFamily:
    """The family whose settings these are; none is diamond."""
    function = _DIAMOND if settings is None else WORLD_FAMILIES[settings.name].function
    family: WorldFamily = imported(function)
    return family


def families_table() -> str:
    """The families as a Markdown table, as docs/worlds.md shows it."""
    functions = {DIAMOND: _DIAMOND} | {name: option.function for name, option in WORLD_FAMILIES.items()}
    rows = [f"| `{name}` | {imported(function).about} |" for name, function in functions.items()]
    return "\n".join(["| `family` | What it is |", "| --- | --- |", *rows])
