"""What planning asks of a family of world models, and the registry that names them. Plain data: no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diamond_bench.config.diffusion import OPTIONS, Option, imported
from diamond_bench.spaces import FrameSpec

DIAMOND = "diamond"
"""The family of a run whose `family` is null. Its settings are `objective`, `conditioning`, `network`, `training` and `sampler`."""


@dataclass(frozen=True)
class WorldSettings:
    """Settings of a family; each family has a subclass of its own."""

    name: str


@dataclass(frozen=True)
class WorldCost:
    """What one row of a world model costs."""

    parameters: int = 0
    flops_per_frame: float = 0.0
    calls_per_frame: int = 0
    state_bytes: int = 0
    """The most bytes that the state of one row takes."""


def _no_check(settings: Any, config: Any, protocol: str) -> None:
    pass


@dataclass(frozen=True)
class WorldFamily:
    """A family of world models that is not trained: one folder of worlds/ and one line of `WORLD_FAMILIES`.

    Planning imports the object, so its module must load torch inside its functions only.
    """

    about: str
    """One sentence for tables of the documentation."""
    open: str
    """ "module:function" that opens a world: (settings, spec, device, play) -> `worlds.contract.WorldModel`. `play` is the recorded play
    that imagination starts from (`worlds.contract.RecordedPlay`), or None."""
    cost: Callable[[Any, FrameSpec], WorldCost]
    """cost(settings, frames)."""
    check: Callable[[Any, Any, str], None] = _no_check
    """check(settings, config, protocol) raises UserError where a run cannot use the family. `config`: its `RunConfig`; `protocol`:
    world_model or agent."""
    revision: int = 1
    """Raised by hand when the family's code changes results; part of the identities of the family's jobs alone."""


WORLD_FAMILIES: dict[str, Option] = {
    "copy_last_frame": Option("diamond_bench.worlds.copy_last_frame:CopyLastFrame", "diamond_bench.worlds.copy_last_frame:FAMILY"),
    "oracle": Option("diamond_bench.worlds.oracle:Oracle", "diamond_bench.worlds.oracle:FAMILY"),
}
"""By the value of `family`: the "module:class" of its settings, and the "module:object" of its `WorldFamily`."""


REGISTRIES = {**OPTIONS, "family": WORLD_FAMILIES}
"""Every registry of named settings, by the name of the field that holds the choice."""


def world_family(settings: WorldSettings) -> WorldFamily:
    """The family whose settings these are."""
    family: WorldFamily = imported(WORLD_FAMILIES[settings.name].function)
    return family


def families_table() -> str:
    """The families as a Markdown table, as docs/worlds.md shows it."""
    rows = [f"| `{name}` | {imported(option.function).about} |" for name, option in WORLD_FAMILIES.items()]
    learned = f"| `{DIAMOND}` | A denoiser, trained for each run: the family of a study that names none. |"
    return "\n".join(["| `family` | What it is |", "| --- | --- |", learned, *rows])
