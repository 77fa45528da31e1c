"""What all figures of a report share: their type, their caption and warning, and the arrays they are drawn from."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import DamagedFile, arrays_in
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import SavedPlan

if TYPE_CHECKING:
    from analysis.chart import Chart

_FINDINGS = ("paper", "small")


@dataclass(frozen=True)
class Drawn:
    """A figure, with the texts that belong to it."""

    figure: "Chart"
    caption: str
    warning: str = ""
    """The text of the band above it; empty at scales whose numbers are findings."""

    def finish(self, captions: bool = False) -> int:
        """Adds the band to the figure, and its caption if `captions`. Returns the caption's height at the bottom of the PNG file, in
        pixels. Call it once."""
        from analysis.chart import DPI, annotate, caption_height

        text = self.caption if captions else ""
        annotate(self.figure, text, self.warning)
        return round(caption_height(self.figure, text) * DPI)


@dataclass(frozen=True)
class StudyFigure:
    """A figure's file without its suffix, and how to draw it (ValueError where the study has no such shape; None: nothing to show)."""

    stem: str
    kind: str
    """The kind of figure: trajectories, quality, training, losses or power. For a metric: the stem or kind of its figure (drift, state,
    modes, thresholds, ranks, gaps, survival, outcomes, sensitivity, confusion). For agents: scores, learning or doses."""
    title: str
    view: str
    """Values of the other axes, where they are not the last ones."""
    draw: Callable[[], Drawn | None]


def annotated(figure: "Chart", plan: SavedPlan, *caption: str) -> Drawn:
    """The figure with the parts of its caption, and a warning at scales whose numbers are no findings."""
    return Drawn(figure, "; ".join(part for part in caption if part), scale_warning(plan.scale))


def scale_warning(scale: str) -> str:
    """The warning that figures of a scale carry; empty where its numbers are findings."""
    if scale.rstrip("*") in _FINDINGS:
        return ""
    if scale.rstrip("*") in ("laptop", "smoke"):
        return f"Scale {scale} trains small networks briefly: its results hold for them alone"
    return f"Scale {scale} demonstrates the pipeline, not a result"


def slug(text: str, keep: str = "") -> str:
    """Letters, digits and what `keep` names, for a file's name."""
    return re.sub(rf"[^A-Za-z0-9{keep}]+", "-", text).strip("-")


def range_words(numbers: Iterable[int], one: str, many: str) -> str:
    """As "1 seed", "3 seeds" or "2 to 5 seeds"."""
    low, high = min(numbers := list(numbers)), max(numbers)
    return f"{low if low == high else f'{low} to {high}'} {one if high == 1 else many}"


def named(variants: Sequence[str], arms: Mapping[str, str], most: int = 3) -> str:
    """Several variants in few words. `arms` has the arm of every variant there is. If `variants` has every variant of some arms, the arms
    name them."""
    if len(arms) > 1 and set(variants) == set(arms):
        return "every variant"
    inside = list(dict.fromkeys(arms[variant] for variant in variants))
    whole = all(inside) and {variant for variant, arm in arms.items() if arm in inside} == set(variants)
    names = inside if whole else list(dict.fromkeys(variants))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def stored_arrays(store: Store, ref: JobRef, file: str, *names: str, optional: bool = False) -> dict[str, np.ndarray]:
    """Arrays of a job's file (`optional`: those that are there). Raises DamagedFile as `stored_file` does."""
    try:
        stored = arrays_in(stored_file(store, ref, file), names)
        return {name: stored[name] for name in names if not optional or name in stored}
    except (ValueError, KeyError) as error:
        raise _set_aside(store, ref, store.folder(ref) / file, str(error)) from None


def stored_file(store: Store, ref: JobRef, file: str) -> bytes:
    """A file that a done job left. Raises DamagedFile, and sets the job aside, where it is not what the job wrote."""
    try:
        return store.artifact(ref, file)
    except PermissionError:  # of another user, and no damage
        raise
    except (OSError, DamagedFile) as error:
        raise _set_aside(store, ref, store.folder(ref) / file, getattr(error, "reason", str(error))) from None


def _set_aside(store: Store, ref: JobRef, path: Path, reason: str) -> DamagedFile:
    store.set_aside(ref, f"{path} is damaged: {reason}")
    return DamagedFile(path, f"{reason}; run the sweep again, which repeats the job")
